// Before a picture is chosen, the gallery's pictures pass by on the stage, each fading into the next.

const STAY_MS = 5000;
const FADE_STEPS = 20;
const STEP_MS = 80;

export class Slides {
  /** show(image, alpha): paint an image over what is there; isIdle(): whether slides may be shown. */
  constructor({ show, isIdle }) {
    this.show = show;
    this.isIdle = isIdle;
    this.images = [];
    this.timer = null;
  }

  /** Show `images` in turn, from the first, until something else is on the stage. */
  begin(images) {
    clearTimeout(this.timer);
    this.images = images;
    this.#present(0, 1);
  }

  #present(index, steps) {
    const image = this.images[index];
    if (!image || !this.isIdle()) return;
    if (!image.complete) {
      image.addEventListener("load", () => this.#present(index, steps), { once: true });
      return;
    }
    this.#fade(image, steps, () => this.#present((index + 1) % this.images.length, FADE_STEPS));
  }

  /** Paint with alphas 1/n, 1/(n-1), ... 1: laid over one another they make an even fade. */
  #fade(image, stepsLeft, next) {
    if (!this.isIdle()) return;
    this.show(image, 1 / stepsLeft);
    const act = stepsLeft > 1 ? () => this.#fade(image, stepsLeft - 1, next) : next;
    this.timer = setTimeout(act, stepsLeft > 1 ? STEP_MS : STAY_MS);
  }
}
