// The map of layers (down) and heads (across): one canvas, a cursor above it, cells told in words.

import { isLocked, patternOf } from "./totals.js";
import { element } from "./dom.js";
import { say } from "./words.js";

const LEFT = 34; // pixels for the numbers of layers and their locks
const TOP = 14; // for the numbers of heads
const RIGHT = 12; // for how much of each layer ran sparse
const MAX_HEIGHT = 420;
const LARGEST = 22;
const SMALLEST_MARKED = 7; // as plans/view/colours.py
const SHARPNESS = 2; // pixels of the canvas for one of the page, so that it stays sharp when the graph is zoomed in

const KEYS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class HeadMap {
  // `told(cell)` hears of the cell under pointer or cursor, `chosen(cell)` of one that is clicked or entered,
  // `layerChosen(layer)` of a layer's number that is clicked, null where that does nothing.
  constructor({ told, chosen, layerChosen }) {
    Object.assign(this, { told, chosen, layerChosen, cell: null });
    this.canvas = element("canvas", {
      tabIndex: 0,
      className: "svd-map",
      role: "application",
      ariaRoleDescription: say("map_role"),
      ariaLabel: say(layerChosen ? "map_name_keep" : "map_name"),
    });
    this.cursor = element("div", { className: "svd-cursor", hidden: true });
    this.root = element("div", { className: "svd-mapbox" }, this.canvas, this.cursor);
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("click", (event) => this.#click(event));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("focus", () => this.#moveTo(this.cell ?? { layer: 0, head: 0 }));
  }

  // `ran` is null, or for each layer the share of its calls that ran sparse.
  show(view, band, locks, ran, width) {
    Object.assign(this, { view, band, locks, ran });
    this.cellWidth = Math.max(3, Math.min(LARGEST, Math.floor((width - LEFT - RIGHT) / view.heads)));
    this.cellHeight = Math.max(4, Math.min(this.cellWidth, LARGEST, Math.floor(MAX_HEIGHT / view.layers)));
    const size = [LEFT + this.cellWidth * view.heads + RIGHT, TOP + this.cellHeight * view.layers + 2];
    this.canvas.width = size[0] * SHARPNESS;
    this.canvas.height = size[1] * SHARPNESS;
    this.canvas.style.width = this.root.style.width = `${size[0]}px`;
    this.canvas.style.height = `${size[1]}px`;
    this.cursor.style.width = `${this.cellWidth + 1}px`;
    this.cursor.style.height = `${this.cellHeight + 1}px`;
    this.#paint();
    if (this.cell && (this.cell.layer >= view.layers || this.cell.head >= view.heads)) this.cell = null;
    this.#placeCursor();
  }

  #paint() {
    const { view, band, locks, cellWidth: width, cellHeight: height } = this;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(SHARPNESS, 0, 0, SHARPNESS, 0, 0);
    pen.fillStyle = "#fff"; // paper, on which the colours are told apart in every theme
    pen.fillRect(LEFT - 1, TOP - 1, view.heads * width + 1, view.layers * height + 1);
    const dense = view.kinds.find(({ kind }) => kind === "dense");
    const cells = view.patterns.map((pattern) => this.#cell(pattern));
    const kept = this.#cell({ ...dense, kind: "dense" });
    for (let layer = 0; layer < view.layers; layer++) {
      for (let head = 0; head < view.heads; head++) {
        const locked = isLocked(view, locks, band, layer, head);
        const picture = locked ? kept : cells[view.bands[band].heads[layer][head]];
        pen.drawImage(picture, LEFT + head * width, TOP + layer * height, width - 1, height - 1);
      }
    }
    this.#axes(pen);
  }

  // A head's picture: its colour, and its kind's mark where there is room for one.
  #cell({ kind, colour, ink }) {
    const width = (this.cellWidth - 1) * SHARPNESS;
    const height = (this.cellHeight - 1) * SHARPNESS;
    const picture = Object.assign(document.createElement("canvas"), { width, height });
    const pen = picture.getContext("2d");
    pen.fillStyle = colour;
    pen.fillRect(0, 0, width, height);
    if (Math.min(this.cellWidth, this.cellHeight) >= SMALLEST_MARKED) {
      const { mark } = this.view.kinds.find((one) => one.kind === kind);
      drawMark(pen, mark, ink, width, height);
    }
    return picture;
  }

  #axes(pen) {
    const { view, cellWidth: width, cellHeight: height } = this;
    const style = getComputedStyle(this.canvas);
    pen.fillStyle = style.color;
    pen.font = "9px sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    for (const head of ticks(view.heads, width, 22)) {
      pen.fillText(String(head), LEFT + (head + 0.5) * width, TOP / 2);
    }
    pen.textAlign = "right";
    const marked = new Set(ticks(view.layers, height, 12));
    for (let layer = 0; layer < view.layers; layer++) {
      const middle = TOP + (layer + 0.5) * height;
      if (marked.has(layer)) pen.fillText(String(layer), LEFT - 12, middle);
      if (this.locks.layers.has(layer)) pen.fillRect(LEFT - 9, middle - height / 2, 5, height - 1);
      if (this.ran) {
        const right = LEFT + view.heads * width + 2;
        pen.globalAlpha = 0.35;
        pen.fillRect(right, middle - 0.5, RIGHT - 3, 1);
        pen.globalAlpha = 1;
        pen.fillRect(right, middle - height / 2, (RIGHT - 3) * (this.ran[layer] ?? 0), height - 1);
      }
    }
  }

  // Where an event happened, however the page has scaled the canvas: a cell, or a layer's number with no head.
  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / SHARPNESS / box.width;
    const head = Math.floor(((event.clientX - box.left) * scale - LEFT) / this.cellWidth);
    const layer = Math.floor(((event.clientY - box.top) * scale - TOP) / this.cellHeight);
    if (!this.view || layer < 0 || layer >= this.view.layers || head >= this.view.heads) return null;
    return { layer, head: head < 0 ? null : head };
  }

  #point(event) {
    const cell = this.#at(event);
    if (cell && cell.head !== null) this.#moveTo(cell);
  }

  #click(event) {
    const cell = this.#at(event);
    if (cell?.head === null) this.layerChosen?.(cell.layer);
    else if (cell) this.chosen(cell);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the page's own, such as Ctrl+Enter
    const { layer, head } = this.cell ?? { layer: 0, head: 0 };
    const last = { layer: this.view.layers - 1, head: this.view.heads - 1 };
    let to = null;
    if (event.key in KEYS) to = { layer: layer + KEYS[event.key][0], head: head + KEYS[event.key][1] };
    else if (event.key === "Home") to = { layer, head: 0 };
    else if (event.key === "End") to = { layer, head: last.head };
    else if (event.key === "PageUp") to = { layer: layer - 10, head };
    else if (event.key === "PageDown") to = { layer: layer + 10, head };
    else if (event.key === "Enter" || event.key === " ") this.chosen({ layer, head });
    else if (event.key.toLowerCase() === "l" && this.layerChosen) this.layerChosen(layer);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the graph has keys of its own
    if (to) this.#moveTo({ layer: clamp(to.layer, last.layer), head: clamp(to.head, last.head) });
  }

  #moveTo(cell) {
    if (this.cell?.layer === cell.layer && this.cell?.head === cell.head) return;
    this.cell = cell;
    this.#placeCursor();
    this.told(cell);
  }

  #placeCursor() {
    this.cursor.hidden = !this.cell;
    if (!this.cell) return;
    const [left, top] = [this.cell.head * this.cellWidth, this.cell.layer * this.cellHeight];
    this.cursor.style.transform = `translate(${LEFT + left - 1}px, ${TOP + top - 1}px)`; // which costs no layout
  }
}

export function drawMark(pen, mark, ink, width, height) {
  const dot = Math.max(1, Math.floor((Math.min(width, height) - 2) / 7));
  const left = Math.floor((width - 5 * dot) / 2);
  const top = Math.floor((height - 5 * dot) / 2);
  pen.fillStyle = ink;
  mark.forEach((row, y) =>
    [...row].forEach((sign, x) => sign === "#" && pen.fillRect(left + x * dot, top + y * dot, dot, dot)),
  );
}

// A cell in words.
export function cellText(view, locks, band, { layer, head }) {
  const pattern = patternOf(view, band, layer, head);
  const parts = [say("cell", { layer, head, pattern: pattern.words })];
  parts.push(say("density", { density: pattern.density.toFixed(3) }));
  const error = view.errors?.[band][layer][head];
  if (error !== undefined) parts.push(say("error", { percent: (100 * error).toPrecision(2) }));
  if (isLocked(view, locks, band, layer, head)) parts.push(say("kept"));
  return parts.join(", ");
}

// Numbers to write on an axis: 1, 2 or 5 times a power of ten apart, with at least `room` pixels each.
function ticks(count, pixels, room) {
  let step = 1;
  for (const factor of [2, 2.5, 2, 2, 2.5, 2]) if (step * pixels < room) step *= factor;
  return Array.from({ length: Math.ceil(count / step) }, (_, place) => place * step);
}

function clamp(value, most) {
  return Math.max(0, Math.min(most, value));
}
