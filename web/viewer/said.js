// What a node says: a first line that tells most, and a second one. It is as high as its text, in every width.

import { element } from "./dom.js";

const MARGINS = 8; // pixels, of `.svd-said`

export class Said {
  // `resized()` hears that the text takes another height.
  constructor(resized) {
    this.first = element("div", { className: "svd-verdict" });
    this.second = element("div", { className: "svd-advice" });
    this.root = element("div", { className: "svd-said", role: "status", hidden: true }, this.first, this.second);
    new ResizeObserver(resized).observe(this.root);
  }

  show(first, second = "") {
    this.first.textContent = first;
    this.second.textContent = second;
    this.root.hidden = !first && !second;
  }

  get height() {
    return this.root.hidden ? 0 : this.root.offsetHeight + MARGINS;
  }
}

// On a node without a map: its text alone.
export class SaidPanel {
  constructor({ resized }) {
    this.said = new Said(resized);
    this.root = element("div", { className: "svd-panel" }, this.said.root);
    this.root.addEventListener("pointerdown", (event) => event.stopPropagation()); // the text can be selected
  }

  get height() {
    return this.said.height;
  }

  // A text with several lines is one paragraph.
  say(text) {
    this.said.show("", text);
  }

  refresh() {}
}
