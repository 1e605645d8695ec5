// Keyboard, and the mixing of every analog device into 13 gains.

import { ACTION_NAMES, STEERING_CODES } from "./protocol.js";

const ANALOG_EVERY_MS = 40;
const ANALOG_STEP = 0.02;

/** Gains of one device by action name, e.g. { dolly_in: 0.4 }; axes() splits signed values. */
export function axes(pairs) {
  const gains = {};
  for (const [value, negative, positive] of pairs) {
    if (value > 0) gains[positive] = Math.min(1, value);
    if (value < 0) gains[negative] = Math.min(1, -value);
  }
  return gains;
}

/** Whether an event belongs to a field that a person types into. */
function isTyping(event) {
  const target = event.target;
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement && target.type === "range") {
    return event.code.startsWith("Arrow");
  }
  return target.matches("input, textarea, select, [contenteditable]");
}

export class Inputs {
  /** send(type, fields): to the server; onKeys(held): the legend; shortcuts: { KeyP() {}, ... }. */
  constructor({ send, onKeys, shortcuts }) {
    this.send = send;
    this.onKeys = onKeys;
    this.shortcuts = shortcuts;
    this.held = new Set();
    this.devices = new Map();
    this.seq = 0;
    this.pressed = [];
    this.sentGains = ACTION_NAMES.map(() => 0);
    this.enabled = false;
    window.addEventListener("keydown", (event) => this.#down(event));
    window.addEventListener("keyup", (event) => this.#up(event));
    window.addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => document.hidden && this.releaseAll());
    setInterval(() => this.#sendAnalog(), ANALOG_EVERY_MS);
  }

  /** A device: read(dtSeconds) -> gains by action name, called every tick. */
  addDevice(name, read) {
    this.devices.set(name, read);
  }

  press(code) {
    if (!STEERING_CODES.has(code) || this.held.has(code)) return;
    this.held.add(code);
    this.#sendKeys(true);
  }

  release(code) {
    if (this.held.delete(code)) this.#sendKeys(false);
  }

  releaseAll() {
    if (this.held.size === 0) return;
    this.held.clear();
    this.#sendKeys(false);
  }

  /** Say again what is held: the server forgot it with the last run. */
  repeat() {
    this.pressed = [];
    this.sentGains = ACTION_NAMES.map(() => 0);
    if (this.held.size > 0) this.#sendKeys(false);
  }

  /** Latencies in ms of the presses that a frame with input number `seq` answers. */
  answeredBy(seq, now) {
    const answered = this.pressed.filter((press) => press.seq <= seq);
    if (answered.length > 0) this.pressed = this.pressed.filter((press) => press.seq > seq);
    return answered.map((press) => now - press.at);
  }

  #down(event) {
    if (isTyping(event)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (STEERING_CODES.has(event.code)) {
      event.preventDefault();
      if (!event.repeat) this.press(event.code);
    } else if (!event.repeat && this.shortcuts[event.code]) {
      event.preventDefault();
      this.shortcuts[event.code]();
    }
  }

  #up(event) {
    this.release(event.code);
    // While Meta is held, macOS tells of no other key's release.
    if (event.key === "Meta") this.releaseAll();
  }

  #sendKeys(isPress) {
    this.seq += 1;
    if (isPress && this.enabled) this.pressed.push({ seq: this.seq, at: performance.now() });
    this.send("keys", { codes: [...this.held], seq: this.seq });
    this.onKeys(this.held);
  }

  #sendAnalog() {
    const gains = ACTION_NAMES.map(() => 0);
    for (const read of this.devices.values()) {
      for (const [name, gain] of Object.entries(read(ANALOG_EVERY_MS / 1000))) {
        gains[ACTION_NAMES.indexOf(name)] += gain;
      }
    }
    const rounded = gains.map((gain) => Math.round(Math.min(1, gain) * 1000) / 1000);
    const changed = rounded.some((gain, i) => {
      const before = this.sentGains[i];
      return Math.abs(gain - before) > ANALOG_STEP || (gain === 0) !== (before === 0);
    });
    if (!changed) return;
    this.seq += 1;
    this.sentGains = rounded;
    this.send("analog", { magnitudes: rounded, seq: this.seq });
  }
}
