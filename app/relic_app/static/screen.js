// The canvas: decodes frames as they come, paints them evenly in time, and acknowledges what was painted.

const GLOW_EVERY_MS = 400;
const GLOW_STRENGTH = 0.4;
const DAB_WIDTH = 8;
const DAB_HEIGHT = 5;
const CORNER = 0.0175;
const REFRESH_MS = 17;
const HALF_REFRESH_MS = REFRESH_MS / 2;
const STALE_MS = 500;
const CATCH_UP = 0.06;
const MOST_BEHIND_MS = 250;

export class Screen {
  /** onPaint(frame, now, slackMs): a frame is on the canvas; slackMs for the first frame of a block. */
  constructor(canvas, glow, onPaint) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.context.beginPath();
    this.context.roundRect(0, 0, canvas.width, canvas.height, canvas.width * CORNER);
    this.context.clip();
    this.glow = glow.getContext("2d");
    this.dab = new OffscreenCanvas(DAB_WIDTH, DAB_HEIGHT).getContext("2d");
    this.onPaint = onPaint;
    this.isPaused = false;
    this.reset(0);
    this.glowAt = 0;
    this.waiting = false;
  }

  set paused(on) {
    this.isPaused = on;
    this.#wait();
  }

  /** Forget what waits: frames of other runs than `run` are ignored from now on. */
  reset(run) {
    this.queue?.forEach((entry) => entry.bitmap?.close());
    this.run = run;
    this.queue = [];
    this.dueAt = -Infinity;
    this.behindMs = 0;
    this.shortestMs = Infinity;
  }

  /** Take a frame from the network; its place in the queue is kept while it is decoded. */
  async push(frame) {
    if (frame.run !== this.run) return;
    const entry = { frame, bitmap: null, slackMs: null };
    const queue = this.queue;
    queue.push(entry);
    try {
      entry.bitmap = await createImageBitmap(frame.jpeg);
    } catch {
      queue.splice(queue.indexOf(entry), 1);
      return;
    }
    if (queue !== this.queue) {
      entry.bitmap.close();
    } else if (frame.firstOfBlock && this.dueAt > -Infinity) {
      const slackMs = this.dueAt + queue.indexOf(entry) * frame.periodMs - performance.now();
      // After a pause or in a hidden tab the schedule is stale and tells nothing of the server.
      if (!this.isPaused && slackMs > -STALE_MS) entry.slackMs = slackMs;
    }
    this.#wait();
  }

  /** Show a still picture, before any frame has come; alpha below 1 lays it over what is there. */
  still(image, alpha = 1) {
    this.context.globalAlpha = alpha;
    this.#draw(image);
    this.context.globalAlpha = 1;
    this.#drawGlow(this.canvas);
  }

  /** Sleep until the next frame is nearly due, then paint in step with the display. */
  #wait() {
    if (this.waiting || this.isPaused || !this.queue[0]?.bitmap) return;
    this.waiting = true;
    const ahead = this.dueAt - HALF_REFRESH_MS - performance.now();
    const paint = () => requestAnimationFrame((now) => this.#tick(now));
    if (ahead > REFRESH_MS) setTimeout(paint, ahead - REFRESH_MS);
    else paint();
  }

  #tick(now) {
    this.waiting = false;
    const entry = this.queue[0];
    if (this.isPaused || !entry?.bitmap) return;
    if (now < this.dueAt - HALF_REFRESH_MS) {
      this.#wait();
      return;
    }
    this.queue.shift();
    this.#draw(entry.bitmap);
    if (now - this.glowAt > GLOW_EVERY_MS) {
      this.glowAt = now;
      this.#drawGlow(entry.bitmap);
    }
    entry.bitmap.close();
    this.dueAt = this.#nextDue(now, entry.frame.periodMs);
    this.onPaint(entry.frame, now, entry.slackMs);
    this.#wait();
  }

  /** A frame later than its period starts the schedule anew; a machine that keeps up makes the time up bit by bit. */
  #nextDue(now, periodMs) {
    const late = now - this.dueAt;
    this.shortestMs = Math.min(this.shortestMs, periodMs);
    if (periodMs > this.shortestMs) this.behindMs = 0;
    if (late > periodMs) {
      if (late < STALE_MS) this.behindMs = Math.min(this.behindMs + late, MOST_BEHIND_MS);
      return now + periodMs;
    }
    const gained = Math.min(this.behindMs, CATCH_UP * periodMs);
    this.behindMs -= gained;
    return this.dueAt + periodMs - gained;
  }

  #draw(image) {
    this.context.imageSmoothingEnabled = true;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** The picture reduced to a few dabs of colour, spread out again and faded towards the edge. */
  #drawGlow(image) {
    const { width, height } = this.glow.canvas;
    this.dab.drawImage(image, 0, 0, DAB_WIDTH, DAB_HEIGHT);
    const fade = this.glow.createRadialGradient(0, 0, 0.4, 0, 0, 0.97);
    fade.addColorStop(0, `rgba(0, 0, 0, ${GLOW_STRENGTH})`);
    fade.addColorStop(1, "rgba(0, 0, 0, 0)");
    this.glow.globalCompositeOperation = "copy";
    this.glow.imageSmoothingQuality = "high";
    this.glow.drawImage(this.dab.canvas, 0, 0, width, height);
    this.glow.globalCompositeOperation = "destination-in";
    this.glow.fillStyle = fade;
    this.glow.setTransform(width / 2, 0, 0, height / 2, width / 2, height / 2);
    this.glow.fillRect(-1, -1, 2, 2);
    this.glow.resetTransform();
  }
}
