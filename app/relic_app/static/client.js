// The page: wires the socket, the screen, the devices, the pictures and the measurements together.

import { gamepad, mouseLook, touch } from "./devices.js";
import { Hud } from "./hud.js";
import { Inputs } from "./inputs.js";
import { Link } from "./link.js";
import { Pictures } from "./pictures.js";
import { Screen } from "./screen.js";
import { Slides } from "./slides.js";

const TOAST_MS = 6000;

/** Gradio mounts the markup some time after this module runs. */
function whenMounted(selector) {
  return new Promise((resolve) => {
    const look = () => {
      const found = document.querySelector(selector);
      if (found) resolve(found);
      else requestAnimationFrame(look);
    };
    look();
  });
}

class Page {
  constructor(root) {
    this.root = root;
    this.find = (id) => root.querySelector(`#${id}`);
    this.world = { state: "waking", message: "connecting", fraction: 0 };
    this.choice = null;
    this.run = 0;
    this.playing = false;
    this.paused = false;
    this.recording = null;
    this.hud = new Hud(root);
    this.link = new Link({
      open: () => {},
      lost: () => this.#lost(),
      frame: (frame) => this.screen.push(frame),
      ready: () => this.#sendSpeeds(),
      world: (message) => this.#worldChanged(message),
      started: (message) => this.#started(message),
      busy: (message) => this.#busy(message),
      error: (message) => this.#failed(message),
      stats: (message) => this.hud.stats(message),
      recording: (message) => this.#recordingChanged(message),
    });
    this.screen = new Screen(this.find("canvas"), this.find("glow"), (...args) => this.#painted(...args));
    this.inputs = new Inputs({
      send: (type, fields) => this.playing && this.link.send(type, fields),
      onKeys: (held) => this.#lightKeys(held),
      shortcuts: { KeyP: () => this.#togglePause(), KeyF: () => this.#toggleFullscreen() },
    });
    this.pictures = new Pictures(root, {
      onChoose: (picture) => this.#choose(picture),
      onProblem: (text) => this.toast(text),
      onBusy: (text) => this.status(text),
    });
    this.#wireDevices();
    this.#watchForFingers();
    this.#wireButtons();
    this.#wirePanel();
    this.link.connect();
    this.slides = new Slides({
      show: (image, alpha) => this.screen.still(image, alpha),
      isIdle: () => !this.playing && this.choice === null,
    });
    this.pictures
      .load()
      .then((images) => this.slides.begin(images))
      .catch(() => this.toast("the gallery could not be loaded: reload the page"));
    this.#showVeil();
  }

  /** What tests and the curious read: window.relic.report(). */
  report() {
    return {
      playing: this.playing,
      paused: this.paused,
      world: this.world.state,
      run: this.run,
      frames: this.hud.frames,
      fps: this.hud.fps(performance.now()),
      latencies: [...this.hud.latencies],
      position: this.hud.view && [this.hud.view.x, this.hud.view.z],
      forward: this.hud.view?.forward ?? null,
    };
  }

  status(text) {
    const field = this.find("status-text");
    if (field.textContent !== text) field.textContent = text;
  }

  toast(text) {
    const toast = this.find("toast");
    toast.textContent = text;
    toast.classList.add("shown");
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => toast.classList.remove("shown"), TOAST_MS);
  }

  // ---- the world and the runs

  #worldChanged(message) {
    this.world = message;
    if (message.state === "awake" && this.choice && !this.playing) this.#start();
    else this.#showVeil();
  }

  #choose(picture) {
    this.choice = picture;
    this.find("prompt").value = picture.prompt;
    this.pictures.mark(picture.id);
    const show = () => this.choice === picture && !this.playing && this.screen.still(picture.image);
    if (picture.image.complete) show();
    else picture.image.addEventListener("load", show, { once: true });
    if (this.world.state === "awake") this.#start();
    else this.#showVeil();
  }

  #start() {
    if (!this.choice) return;
    this.#refused = null;
    this.link.send("start", {
      [this.choice.source]: this.choice.id,
      prompt: this.find("prompt").value,
      seed: Math.max(0, Math.min(2 ** 31 - 1, Math.floor(Number(this.find("seed").value) || 0))),
    });
    this.status(`walking into ${this.choice.title}`);
  }

  #started(message) {
    this.run = message.run;
    this.playing = true;
    this.inputs.enabled = true;
    this.#setPaused(false);
    this.screen.reset(message.run);
    this.hud.reset();
    this.inputs.repeat();
    this.status(`in ${this.choice?.title ?? "the picture"}`);
    this.#enableButtons(true);
    this.#showVeil();
    this.find("canvas").focus({ preventScroll: true });
    this.find("frame").scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  #stopped() {
    this.playing = false;
    this.inputs.enabled = false;
    this.#setRecording(null);
    this.#enableButtons(false);
    this.screen.reset(0);
  }

  #refused = null;

  #busy(message) {
    this.#stopped();
    this.#refused = { title: "The world is full", text: message.message };
    this.#showVeil();
  }

  #failed(message) {
    if (message.code === "engine" || message.code === "picture") {
      this.#stopped();
      this.#refused = { title: "The world stopped", text: message.message };
    }
    if (message.code === "recording") this.#setRecording(null);
    if (message.code === "protocol" && /protocol/.test(message.message)) {
      this.#refused = { title: "This page is out of date", text: message.message, reload: true };
    }
    this.toast(message.message);
    this.#showVeil();
  }

  #lost() {
    if (this.playing) this.toast("the connection was lost");
    this.#stopped();
    this.choice = null;
    this.pictures.mark("");
    this.world = { state: "connecting", message: "looking for the world", fraction: 0 };
    this.#showVeil();
  }

  #painted(frame, now, slackMs) {
    const latencies = this.inputs.answeredBy(frame.seq, performance.now());
    this.hud.painted(frame, now, latencies);
    const fields = { run: frame.run, frame: frame.frame };
    if (slackMs !== null) fields.slack_ms = Math.round(slackMs);
    this.link.send("ack", fields);
    if (this.recording !== null) this.#showRecordingTime();
  }

  /** The card over the picture: welcome, waking, paused, full, failed. */
  #showVeil() {
    const { state, message, fraction } = this.world;
    const waking = state === "waking" || state === "connecting";
    let card = { title: "Walk into a picture", text: "Choose one below, drop or paste your own, and go." };
    if (this.#refused) card = { ...this.#refused, button: this.#refused.reload ? "Reload" : "Try again" };
    else if (state === "failed") card = { title: "The world did not wake", text: message };
    else if (waking && this.choice) card = { title: `Opening ${this.choice.title}`, text: `${message} …` };
    else if (waking) card.text = `Choose one below. Meanwhile: ${message} …`;
    else if (this.playing && this.paused) card = { title: "Paused", text: "", button: "Go on" };
    this.root.dataset.state = this.playing && !this.paused ? "playing" : this.playing ? "paused" : state;
    this.find("veil").hidden = this.playing && !this.paused && !this.#refused;
    this.find("veil-title").textContent = card.title;
    this.find("veil-text").textContent = card.text;
    this.find("veil-button").hidden = !card.button;
    this.find("veil-button").textContent = card.button ?? "";
    const bar = this.find("veil-bar");
    bar.hidden = !waking;
    bar.firstElementChild.style.width = `${Math.round(fraction * 100)}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(fraction * 100)));
    if (!this.playing) this.status(this.#refused?.text ?? message);
  }

  // ---- buttons and panel

  #wireButtons() {
    const on = (id, act) => this.find(id).addEventListener("click", act);
    on("pause", () => this.#togglePause());
    on("restart", () => this.link.send("restart"));
    on("record", () => this.link.send("record", { on: this.recording === null }));
    on("fullscreen", () => this.#toggleFullscreen());
    on("mouse", () => this.mouse.toggle());
    on("veil-button", () => {
      if (this.#refused?.reload) location.reload();
      else if (this.playing && this.paused) this.#togglePause();
      else this.#start();
    });
    on("dice", () => {
      this.find("seed").value = Math.floor(Math.random() * 10000);
      if (this.playing) this.#start();
    });
    this.find("seed").addEventListener("change", () => this.playing && this.#start());
  }

  #enableButtons(on) {
    for (const id of ["pause", "restart", "record", "mouse"]) this.find(id).disabled = !on;
  }

  #togglePause() {
    if (!this.playing) return;
    this.#setPaused(!this.paused);
    this.link.send("pause", { on: this.paused });
    this.status(this.paused ? "paused" : `in ${this.choice?.title ?? "the picture"}`);
    this.#showVeil();
  }

  #setPaused(on) {
    this.paused = on;
    this.screen.paused = on;
    this.#face("pause", on ? "Resume" : "Pause", on ? "i-play" : "i-pause");
  }

  #face(id, name, icon) {
    const button = this.find(id);
    button.setAttribute("aria-label", name);
    if (icon) button.querySelector("use").setAttribute("href", `#${icon}`);
  }

  #toggleFullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.find("stage").requestFullscreen().catch(() => this.toast("the browser refused full screen"));
  }

  #wireDevices() {
    this.mouse = mouseLook(this.find("canvas"), {
      turnDegrees: () => Number(this.find("turn").value),
      isPlaying: () => this.playing && !this.paused,
      onChange: (locked) => {
        this.root.toggleAttribute("data-locked", locked);
        this.find("mouse").setAttribute("aria-pressed", String(locked));
        if (locked) this.status("looking with the mouse; Escape lets go");
      },
      onRefused: () => this.toast("the browser refused to lock the mouse: try again in a second"),
    });
    this.inputs.addDevice("mouse", this.mouse.read);
    this.inputs.addDevice("gamepad", gamepad().read);
    this.inputs.addDevice("touch", touch(this.root, this.inputs).read);
  }

  #watchForFingers() {
    const touched = () => this.root.setAttribute("data-touch", "");
    if (matchMedia("(pointer: coarse)").matches) touched();
    window.addEventListener("pointerdown", (event) => event.pointerType === "touch" && touched());
  }

  #wirePanel() {
    const prompt = this.find("prompt");
    prompt.addEventListener("keydown", (event) => {
      if (event.key === "Escape") prompt.blur();
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.find("canvas").focus({ preventScroll: true });
    });
    prompt.addEventListener("change", () => {
      if (!this.playing) return;
      this.link.send("prompt", { text: prompt.value });
      this.status("the prompt is applied");
    });
    for (const id of ["move", "turn"]) {
      const slider = this.find(id);
      slider.addEventListener("input", () => this.#sendSpeeds());
      slider.addEventListener("pointerup", () => slider.blur());
    }
    this.#sendSpeeds();
  }

  #sendSpeeds() {
    const [move, turn] = [Number(this.find("move").value), Number(this.find("turn").value)];
    for (const [id, said] of [["move", `${move.toFixed(2)} m/s`], ["turn", `${turn} °/s`]]) {
      const slider = this.find(id);
      this.find(`${id}-out`).textContent = said;
      slider.setAttribute("aria-valuetext", said);
      const share = (slider.value - slider.min) / (slider.max - slider.min);
      slider.style.setProperty("--share", `${share * 100}%`);
    }
    this.link.send("speeds", { move, turn });
  }

  #lightKeys(held) {
    for (const key of this.root.querySelectorAll("[data-code], [data-hold]")) {
      key.classList.toggle("lit", held.has(key.dataset.code ?? key.dataset.hold));
    }
  }

  // ---- recording

  #recordingChanged(message) {
    this.#setRecording(message.state === "on" ? performance.now() : null);
    if (message.state === "saving") this.status("saving the recording");
    if (message.state === "saved") this.#offerDownload(message);
  }

  #setRecording(startedAt) {
    this.recording = startedAt;
    this.find("rec").hidden = startedAt === null;
    this.find("record").setAttribute("aria-pressed", String(startedAt !== null));
    this.#face("record", startedAt === null ? "Record" : "Stop recording");
    if (startedAt !== null) this.#showRecordingTime();
  }

  #showRecordingTime() {
    const seconds = Math.floor((performance.now() - this.recording) / 1000);
    this.find("rec-time").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }

  #offerDownload(message) {
    const link = (href, text, name) => {
      const anchor = document.createElement("a");
      Object.assign(anchor, { href, textContent: text, download: "" });
      anchor.setAttribute("aria-label", name);
      return anchor;
    };
    const item = document.createElement("li");
    const video = link(message.video, `${message.seconds.toFixed(1)} s video`, "Download the video");
    item.append(video, link(message.poses, "poses", "Download the poses"));
    const card = this.find("downloads");
    card.hidden = false;
    card.querySelector("ul").prepend(item);
    this.status("the recording is saved");
    video.click();
  }
}

window.relic = new Page(await whenMounted("#relic-app"));
