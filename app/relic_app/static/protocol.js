// The page's half of relic_app/protocol.py and relic_app/replies.py; a test compares them.

export const PROTOCOL_VERSION = 1;
export const FRAME_HEADER_BYTES = 48;
export const FIRST_OF_BLOCK = 1;

export const ACTION_NAMES = [
  "dolly_in", "dolly_out", "truck_left", "truck_right", "pedestal_up", "pedestal_down",
  "tilt_up", "tilt_down", "pan_left", "pan_right", "roll_cw", "roll_ccw", "static",
];

export const STEERING_CODES = new Set([
  "KeyW", "KeyS", "KeyA", "KeyD", "KeyE", "KeyQ",
  "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "KeyC", "KeyZ",
]);

/** Read a binary message: { firstOfBlock, run, frame, block, seq, periodMs, position, forward, jpeg }. */
export function parseFrame(buffer) {
  const view = new DataView(buffer);
  const version = view.getUint8(2);
  if (view.getUint16(0, false) !== 0x5246 || version !== PROTOCOL_VERSION) {
    throw new Error("not a frame of this protocol: reload the page");
  }
  const float = (offset) => view.getFloat32(offset, true);
  return {
    firstOfBlock: Boolean(view.getUint8(3) & FIRST_OF_BLOCK),
    run: view.getUint32(4, true),
    frame: view.getUint32(8, true),
    block: view.getUint32(12, true),
    seq: view.getUint32(16, true),
    periodMs: view.getUint32(20, true) / 1000,
    position: [float(24), float(28), float(32)],
    forward: [float(36), float(40), float(44)],
    jpeg: new Blob([new Uint8Array(buffer, FRAME_HEADER_BYTES)], { type: "image/jpeg" }),
  };
}
