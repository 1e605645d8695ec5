// What is measured: shown frames a second, key to picture, memory, and the map of the walk.

const FPS_WINDOW_MS = 2000;
const LATENCIES_KEPT = 15;
const MAP_MIN_SPAN_M = 3;
const AMBER = "#e9b872";

export function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export class Hud {
  constructor(root) {
    const find = (id) => root.querySelector(`#${id}`);
    this.fields = {
      fps: find("hud-fps"), latency: find("hud-latency"), seconds: find("mem-seconds"),
      tokens: find("mem-tokens"), size: find("mem-size"), block: find("mem-block"),
    };
    this.map = find("map").getContext("2d");
    this.plot = find("mem-plot").getContext("2d");
    this.reset();
    setInterval(() => this.#refresh(), 250);
  }

  reset() {
    this.paintedAt = [];
    this.frames = 0;
    this.latencies = [];
    this.trail = [];
    this.view = null;
    this.tokens = [];
    for (const field of Object.values(this.fields)) field.textContent = "–";
    this.#drawMap();
    this.#drawPlot();
  }

  painted(frame, now, latencies) {
    this.frames += 1;
    this.paintedAt.push(now);
    this.latencies.push(...latencies);
    this.latencies.splice(0, this.latencies.length - LATENCIES_KEPT);
    const [x, , z] = frame.position;
    const last = this.trail.at(-1);
    if (!last || Math.hypot(x - last[0], z - last[1]) > 0.02) this.trail.push([x, z]);
    this.view = { x, z, forward: frame.forward };
  }

  stats(message) {
    this.fields.seconds.textContent = message.seconds_remembered.toFixed(1);
    this.fields.tokens.textContent = message.memory_tokens.toLocaleString("en");
    this.fields.size.textContent = (message.memory_bytes / 2 ** 20).toFixed(1);
    this.fields.block.textContent = Math.round(message.block_ms);
    this.tokens.push(message.memory_tokens);
    this.#drawPlot();
  }

  fps(now) {
    this.paintedAt = this.paintedAt.filter((at) => now - at < FPS_WINDOW_MS);
    const [first, last] = [this.paintedAt[0], this.paintedAt.at(-1)];
    return this.paintedAt.length < 2 ? 0 : ((this.paintedAt.length - 1) * 1000) / (last - first);
  }

  #refresh() {
    if (this.frames === 0) return;
    const fps = this.fps(performance.now());
    this.fields.fps.textContent = fps ? fps.toFixed(1) : "0";
    const latency = median(this.latencies);
    this.fields.latency.textContent = latency === null ? "–" : Math.round(latency);
    this.#drawMap();
  }

  /** Seen from above, the start's forward up; the scale grows with the walk. */
  #drawMap() {
    const { map } = this;
    const side = map.canvas.width;
    map.clearRect(0, 0, side, side);
    if (!this.view) return;
    const points = [...this.trail, [this.view.x, this.view.z]];
    const [xs, zs] = [points.map((p) => p[0]), points.map((p) => p[1])];
    const centre = [(Math.min(...xs) + Math.max(...xs)) / 2, (Math.min(...zs) + Math.max(...zs)) / 2];
    const span = Math.max(
      MAP_MIN_SPAN_M, 1.5 * (Math.max(...xs) - Math.min(...xs)), 1.5 * (Math.max(...zs) - Math.min(...zs)),
    );
    const place = ([x, z]) => [
      side / 2 + ((x - centre[0]) / span) * side * 0.8,
      side / 2 - ((z - centre[1]) / span) * side * 0.8,
    ];
    this.#drawView(place([this.view.x, this.view.z]));
    map.beginPath();
    points.forEach((point, i) => map[i ? "lineTo" : "moveTo"](...place(point)));
    Object.assign(map, { strokeStyle: AMBER, lineWidth: 4, lineJoin: "round", lineCap: "round", globalAlpha: 0.8 });
    map.stroke();
    map.globalAlpha = 1;
    this.#dot(place(points[0]), 6, "#ffffff88");
    this.#dot(place([this.view.x, this.view.z]), 9, AMBER);
  }

  #drawView([x, y]) {
    const { map } = this;
    const [fx, , fz] = this.view.forward;
    const heading = Math.atan2(-fz, fx);
    const glow = map.createRadialGradient(x, y, 6, x, y, 72);
    glow.addColorStop(0, "rgba(255, 244, 225, .42)");
    glow.addColorStop(1, "rgba(255, 244, 225, 0)");
    map.fillStyle = glow;
    map.beginPath();
    map.moveTo(x, y);
    map.arc(x, y, 72, heading - 0.75, heading + 0.75);
    map.fill();
  }

  #dot([x, y], radius, colour) {
    this.map.fillStyle = colour;
    this.map.beginPath();
    this.map.arc(x, y, radius, 0, 7);
    this.map.fill();
  }

  #drawPlot() {
    const { plot, tokens } = this;
    const { width, height } = plot.canvas;
    plot.clearRect(0, 0, width, height);
    if (tokens.length < 2) return;
    const highest = Math.max(...tokens) * 1.08;
    const point = (value, i) => [(i / (tokens.length - 1)) * width, height - 4 - (value / highest) * (height - 8)];
    plot.beginPath();
    tokens.forEach((value, i) => plot[i ? "lineTo" : "moveTo"](...point(value, i)));
    Object.assign(plot, { strokeStyle: AMBER, lineWidth: 3, lineJoin: "round" });
    plot.stroke();
    plot.lineTo(width, height);
    plot.lineTo(0, height);
    plot.closePath();
    const fade = plot.createLinearGradient(0, 0, 0, height);
    fade.addColorStop(0, "rgba(233, 184, 114, .28)");
    fade.addColorStop(1, "rgba(233, 184, 114, 0)");
    plot.fillStyle = fade;
    plot.fill();
  }
}
