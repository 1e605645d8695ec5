// The start pictures: the gallery's strip, and uploads by button, drop and paste.

const MAX_BYTES = 20 * 2 ** 20;

export class Pictures {
  /** onChoose({ source, id, title, prompt, url }); onProblem(text) for a refused upload. */
  constructor(root, { onChoose, onProblem, onBusy }) {
    this.root = root;
    this.tiles = root.querySelector("#tiles");
    this.onChoose = onChoose;
    this.onProblem = onProblem;
    this.onBusy = onBusy;
    this.uploads = 0;
    const file = root.querySelector("#file");
    root.querySelector("#upload").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      if (file.files[0]) this.upload(file.files[0]);
      file.value = "";
    });
    this.#takeDrops();
    window.addEventListener("paste", (event) => {
      const pasted = [...(event.clipboardData?.files ?? [])];
      if (pasted.length > 0) this.upload(pasted[0]);
    });
  }

  /** Fill the strip; returns its images. */
  async load() {
    const response = await fetch("api/gallery");
    for (const entry of await response.json()) {
      this.#addTile({ source: "picture", url: entry.picture, ...entry });
    }
    return [...this.tiles.querySelectorAll("img")];
  }

  async upload(file) {
    if (file.size > MAX_BYTES) {
      this.onProblem(`${file.name} is larger than ${MAX_BYTES / 2 ** 20} MB: choose a smaller picture`);
      return;
    }
    this.onBusy(`reading ${file.name}`);
    try {
      const response = await fetch(`api/upload?name=${encodeURIComponent(file.name || "the picture")}`, {
        method: "POST",
        body: file,
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error);
      this.uploads += 1;
      const title = file.name.replace(/\.[^.]*$/, "").slice(0, 40) || `Picture ${this.uploads}`;
      const tile = this.#addTile({ source: "upload", id: answer.id, title, prompt: "", url: answer.picture }, true);
      tile.click();
    } catch (error) {
      this.onProblem(error.message || "the upload failed: try again");
    }
  }

  /** Mark the tile of the picture that is walked in. */
  mark(id) {
    for (const tile of this.tiles.children) tile.setAttribute("aria-pressed", String(tile.dataset.id === id));
  }

  #addTile(picture, first = false) {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.className = "tile";
    tile.dataset.id = picture.id;
    tile.setAttribute("aria-pressed", "false");
    tile.setAttribute("aria-label", `Walk into ${picture.title}`);
    const image = new Image();
    image.src = picture.url;
    image.alt = "";
    image.draggable = false;
    const title = document.createElement("em");
    title.textContent = picture.title;
    const box = document.createElement("span");
    box.append(image);
    tile.append(box, title);
    tile.addEventListener("click", () => this.onChoose({ ...picture, image }));
    if (first) {
      this.tiles.prepend(tile);
      this.tiles.parentElement.scrollTo({ left: 0, behavior: "smooth" });
    } else {
      this.tiles.append(tile);
    }
    return tile;
  }

  #takeDrops() {
    let depth = 0;
    const show = (on) => this.root.toggleAttribute("data-drop", on);
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    window.addEventListener("dragenter", (event) => {
      if (!hasFile(event)) return;
      depth += 1;
      show(true);
    });
    window.addEventListener("dragleave", (event) => {
      if (!hasFile(event)) return;
      depth = Math.max(0, depth - 1);
      show(depth > 0);
    });
    window.addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
    window.addEventListener("drop", (event) => {
      depth = 0;
      show(false);
      if (!event.dataTransfer?.files.length) return;
      event.preventDefault();
      this.upload(event.dataTransfer.files[0]);
    });
  }
}
