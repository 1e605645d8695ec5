// The websocket: greets, hands messages on, and comes back after a broken connection.

import { PROTOCOL_VERSION, parseFrame } from "./protocol.js";

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 8000;
const CLOSED_BY_PROTOCOL = 4000;

export class Link {
  /** handlers: { open(), lost(), frame(frame), <type>(message) for each kind of server message }. */
  constructor(handlers) {
    this.handlers = handlers;
    this.retryMs = FIRST_RETRY_MS;
    this.socket = null;
  }

  connect() {
    const url = new URL("ws", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      this.retryMs = FIRST_RETRY_MS;
      this.send("hello", { version: PROTOCOL_VERSION });
      this.handlers.open();
    };
    socket.onmessage = (event) => {
      if (typeof event.data !== "string") {
        this.handlers.frame(parseFrame(event.data));
        return;
      }
      const message = JSON.parse(event.data);
      this.handlers[message.type]?.(message);
    };
    socket.onclose = (event) => {
      if (event.code === CLOSED_BY_PROTOCOL) return;
      this.handlers.lost();
      setTimeout(() => this.connect(), this.retryMs);
      this.retryMs = Math.min(LAST_RETRY_MS, this.retryMs * 2);
    };
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(type, fields = {}) {
    if (this.isOpen) this.socket.send(JSON.stringify({ type, ...fields }));
  }
}
