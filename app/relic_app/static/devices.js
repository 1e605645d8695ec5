// Mouse-look, gamepad and touch sticks: each read() gives gains by action name.

import { axes } from "./inputs.js";

const MOUSE_DEGREES_PER_PIXEL = 0.12;
const MOUSE_CATCH_UP_S = 0.12;
const STICK_DEAD_ZONE = 0.15;
const TOUCH_DEAD_ZONE = 0.08;

/** Mouse-look by pointer lock: the distance moved is paid out as turning, at most at full turning speed. */
export function mouseLook(canvas, { turnDegrees, isPlaying, onChange, onRefused }) {
  let owed = [0, 0];
  const isLocked = () => document.pointerLockElement === canvas;
  const toggle = async () => {
    if (isLocked()) {
      document.exitPointerLock();
      return;
    }
    if (!isPlaying()) return;
    canvas.focus();
    try {
      await canvas.requestPointerLock();
    } catch {
      onRefused();
    }
  };
  document.addEventListener("pointerlockchange", () => {
    owed = [0, 0];
    onChange(isLocked());
  });
  document.addEventListener("mousemove", (event) => {
    if (!isLocked()) return;
    owed[0] += event.movementX * MOUSE_DEGREES_PER_PIXEL;
    owed[1] += event.movementY * MOUSE_DEGREES_PER_PIXEL;
  });
  canvas.addEventListener("click", (event) => {
    if (event.pointerType !== "touch") toggle();
  });
  const read = (dt) => {
    const full = Math.max(1, turnDegrees());
    const gains = owed.map((degrees) => Math.max(-1, Math.min(1, degrees / MOUSE_CATCH_UP_S / full)));
    owed = owed.map((degrees, i) => (Math.abs(degrees) < 0.05 ? 0 : degrees - gains[i] * full * dt));
    return axes([[gains[0], "pan_left", "pan_right"], [gains[1], "tilt_up", "tilt_down"]]);
  };
  return { read, toggle };
}

function beyond(value, dead) {
  const size = Math.abs(value ?? 0);
  return size < dead ? 0 : (Math.sign(value) * (size - dead)) / (1 - dead);
}

/** Standard gamepad: left stick walks, right stick looks, triggers sink and rise, bumpers roll. */
export function gamepad() {
  const read = () => {
    const pad = navigator.getGamepads?.().find((candidate) => candidate?.mapping === "standard");
    if (!pad) return {};
    const stick = (index) => beyond(pad.axes[index], STICK_DEAD_ZONE);
    const button = (index) => pad.buttons[index]?.value ?? 0;
    return axes([
      [stick(0), "truck_left", "truck_right"],
      [-stick(1), "dolly_out", "dolly_in"],
      [stick(2), "pan_left", "pan_right"],
      [stick(3), "tilt_up", "tilt_down"],
      [button(7) - button(6), "pedestal_down", "pedestal_up"],
      [button(5) - button(4), "roll_ccw", "roll_cw"],
    ]);
  };
  return { read };
}

/** One on-screen stick; value is [x, y] in [-1, 1], y down. */
function stick(pad) {
  const knob = pad.querySelector("i");
  let pointer = null;
  let value = [0, 0];
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    const radius = box.width / 2;
    let [x, y] = [(event.clientX - box.left) / radius - 1, (event.clientY - box.top) / radius - 1];
    const length = Math.hypot(x, y);
    if (length > 1) [x, y] = [x / length, y / length];
    value = [beyond(x, TOUCH_DEAD_ZONE), beyond(y, TOUCH_DEAD_ZONE)];
    knob.style.transform = `translate(${x * radius * 0.6}px, ${y * radius * 0.6}px)`;
  };
  const letGo = () => {
    pointer = null;
    value = [0, 0];
    knob.style.transform = "";
  };
  pad.addEventListener("pointerdown", (event) => {
    if (pointer !== null) return;
    event.preventDefault();
    pointer = event.pointerId;
    pad.setPointerCapture(pointer);
    place(event);
  });
  pad.addEventListener("pointermove", (event) => event.pointerId === pointer && place(event));
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
    pad.addEventListener(kind, (event) => event.pointerId === pointer && letGo());
  }
  return () => value;
}

/** Two sticks, and buttons with data-hold that hold a key. */
export function touch(root, inputs) {
  const move = stick(root.querySelector("#pad-move"));
  const look = stick(root.querySelector("#pad-look"));
  for (const button of root.querySelectorAll("[data-hold]")) {
    const { hold } = button.dataset;
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      inputs.press(hold);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(kind, () => inputs.release(hold));
    }
    button.addEventListener("contextmenu", (event) => event.preventDefault());
  }
  const read = () =>
    axes([
      [move()[0], "truck_left", "truck_right"],
      [-move()[1], "dolly_out", "dolly_in"],
      [look()[0], "pan_left", "pan_right"],
      [look()[1], "tilt_up", "tilt_down"],
    ]);
  return { read };
}
