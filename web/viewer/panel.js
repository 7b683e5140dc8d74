// What stands on a node: what its last run says, a button, and behind it the plan's map, totals, legend and last run.

import { button, element, refill } from "./dom.js";
import { Locks } from "./locks.js";
import { HeadMap, cellText, drawMark } from "./map.js";
import { HeadPicture } from "./picture.js";
import { layerText, measuredText, shareByLayer, stepTexts } from "./run.js";
import { Said } from "./said.js";
import { expectedSpeedup, kindCounts, meanDensity, totalsText } from "./totals.js";
import { say } from "./words.js";

export const NARROWEST = 360; // pixels of a node with an open map
const CLOSED_HEIGHT = 30;
const SWATCH = 14;

export class PlanPanel {
  // `setLocks(locks)` keeps them in the workflow, null where nothing can be locked; `opened(isOpen)` and
  // `turned(showsRun)` keep what the user did; `resized()` hears that the panel wants another height, `pictureOf` is as
  // HeadPicture has it; `missing` says what to do where there is no plan to show.
  constructor({ setLocks, resized, opened, turned, missing, pictureOf }) {
    Object.assign(this, { setLocks, resized, opened, turned, missing });
    Object.assign(this, { view: null, ran: null, locks: new Locks(), band: 0, showsRun: false });
    this.isOpen = false;
    this.toggle = button("", say("show_or_hide"), () => this.open(!this.isOpen));
    this.toggle.className = "svd-toggle";
    this.badge = element("span", { className: "svd-badge", role: "status" });
    this.said = new Said(() => this.resized());
    this.map = new HeadMap({
      told: (cell) => this.#tell(cell),
      chosen: (cell) => this.#choose(cell),
      layerChosen: setLocks && ((layer) => this.#toggleLock("layers", layer)),
    });
    this.parts = Object.fromEntries(
      ["title", "tabs", "strip", "steps", "none", "hover", "actions", "legend", "totals", "report"].map((name) => [
        name,
        element("div", { className: `svd-${name}` }),
      ]),
    );
    this.picture = new HeadPicture({ pictureOf, resized });
    this.hoverText = document.createTextNode(""); // changed in place, which is the least work for a move of the pointer
    this.layerText = document.createTextNode("");
    this.layerButton = button("", say("next_run"), () => this.#toggleLock("layers", this.map.cell.layer));
    this.kept = element("span");
    this.reset = button(say("reset"), say("reset_about"), () => {
      this.setLocks(new Locks());
      this.map.canvas.focus({ preventScroll: true }); // the button is gone
    });
    this.layerButton.append(this.layerText);
    this.parts.hover.append(this.hoverText);
    this.layer = element("div", { className: "svd-layer" }, this.layerButton);
    this.parts.actions.append(this.layer, this.kept, this.reset);
    this.parts.hover.ariaLive = this.parts.totals.ariaLive = "polite";
    const { title, tabs, strip, steps, none, hover, actions, legend, totals, report } = this.parts;
    this.heads = element("div", {}, strip, steps, this.map.root, hover, actions, this.picture.root, legend, totals);
    this.shown = element("div", {}, tabs, none, this.heads);
    this.body = element("div", { className: "svd-body", hidden: true }, title, this.shown, report);
    this.head = element("div", { className: "svd-head" }, this.toggle, this.badge);
    this.root = element("div", { className: "svd-panel" }, this.said.root, this.head, this.body);
    // a press here is none on the node, which would be dragged
    for (const kind of ["pointerdown", "mousedown", "dblclick"]) {
      this.body.addEventListener(kind, (event) => event.stopPropagation());
    }
    new ResizeObserver(() => this.#fitWidth()).observe(this.root);
    this.refresh();
  }

  // The map is as wide as the node lets it be.
  #fitWidth() {
    if (!this.isOpen || this.root.clientWidth === this.width) return;
    this.refresh();
    this.resized();
  }

  open(isOpen, byUser = true) {
    this.isOpen = isOpen;
    this.refresh();
    if (byUser) this.opened(isOpen);
    else this.resized();
  }

  // Height that the panel takes, in pixels of the node.
  get height() {
    return CLOSED_HEIGHT + this.said.height + (this.isOpen ? this.body.scrollHeight + 6 : 0);
  }

  // `view` is a plan's as the server sends it.
  showPlan(view) {
    if (view !== this.view) {
      this.band = 0;
      if (!this.showsRun) this.picture.clear();
    }
    this.view = view;
    this.refresh();
  }

  // What a run says while it goes on, until the next thing is said.
  say(text) {
    this.said.show("", text);
    this.said.root.title = "";
    this.resized();
  }

  // `onTop`: rather than the plan.
  showRun(ran, onTop = true) {
    this.ran = ran;
    this.said.show(ran.verdict, ran.advice);
    this.said.root.title = ran.line;
    this.showsRun = onTop && Boolean(ran.view);
    this.picture.clear();
    this.refresh();
    this.resized();
  }

  showLocks(locks) {
    if (String(locks) === String(this.locks)) return;
    this.locks = locks;
    this.refresh();
  }

  // What the map shows: the plan with its locks, or what the last run had.
  get #current() {
    if (this.showsRun && this.ran) return { view: this.ran.view, locks: Locks.parse(this.ran.kept) };
    return { view: this.view ?? this.ran?.view ?? null, locks: this.locks };
  }

  // What has run cannot change any more.
  get #canLock() {
    return Boolean(this.setLocks) && !this.showsRun;
  }

  refresh() {
    const { view, locks } = this.#current;
    this.toggle.textContent = `${this.isOpen ? "\u25be" : "\u25b8"} ${say("map_of_heads")}`;
    this.toggle.ariaLabel = say("map_of_heads"); // without the sign
    this.toggle.ariaExpanded = String(this.isOpen);
    this.badge.textContent = view && !this.ran && hasPatterns(view) ? this.#summary(view, locks) : "";
    this.body.hidden = !this.isOpen;
    if (!this.isOpen) return;
    this.parts.title.textContent = view ? [view.name, view.model, view.about].filter(Boolean).join(" \u00b7 ") : this.missing;
    this.parts.report.textContent = this.ran?.report ?? "";
    this.shown.hidden = !view;
    if (view) this.#refreshMap(view, locks);
  }

  #summary(view, locks) {
    const speedup = expectedSpeedup(view, locks);
    const density = meanDensity(view, locks).toFixed(2);
    return speedup < 1e6 ? say("summary", { times: speedup.toFixed(1) }) : say("density", { density });
  }

  #refreshMap(view, locks) {
    this.band = Math.min(this.band, view.bands.length - 1);
    const run = this.showsRun && this.ran;
    this.width = this.root.clientWidth;
    const ran = run ? shareByLayer(this.ran, view.layers) : null;
    this.#tabs();
    this.heads.hidden = !hasPatterns(view);
    this.parts.none.textContent = this.heads.hidden ? say(view.grade === "calibrate" ? "no_patterns" : "all_dense") : "";
    if (this.heads.hidden) return;
    this.map.show(view, this.band, locks, ran, this.width || NARROWEST);
    this.#strip(view, locks);
    this.#steps(view);
    this.#legend(view, locks);
    this.#actions();
    this.parts.totals.textContent = run ? measuredText(run) : totalsText(view, locks);
    if (this.map.cell) this.#tell(this.map.cell);
    else this.hoverText.data = say(this.#canLock ? "hint_keep" : "hint");
  }

  #tabs() {
    if (!this.ran?.view) return this.parts.tabs.replaceChildren();
    const tab = (text, title, run) => {
      const made = button(text, title, () => {
        this.showsRun = run;
        this.turned(run);
        this.picture.clear();
        this.refresh();
        this.resized();
      });
      made.ariaPressed = String(this.showsRun === run);
      return made;
    };
    refill(
      this.parts.tabs,
      tab(say("plan_tab"), say("plan_tab_about"), false),
      tab(say("run_tab"), say("run_tab_about"), true),
    );
  }

  #strip(view, locks) {
    const bands = view.bands.map((band, number) => {
      const high = band.sigma_high >= 1e6 ? say("all_noise") : band.sigma_high.toPrecision(3);
      const isAll = band.sigma_high >= 1e6 && band.sigma_low === 0;
      const levels = isAll ? high : `${high} \u2013 ${band.sigma_low.toPrecision(3)}`;
      const density = meanDensity(view, locks, number).toFixed(2);
      const made = button(levels, say("band_about", { levels, density }), () => {
        this.band = number;
        this.picture.clear();
        this.refresh();
      });
      made.ariaPressed = String(number === this.band);
      made.ariaLabel = made.title;
      made.style.flexGrow = Math.max(0.15, Math.min(1, band.sigma_high) - band.sigma_low);
      return made;
    });
    refill(this.parts.strip, element("span", { textContent: say("noise") }), ...bands);
  }

  #steps(view) {
    if (!this.showsRun || !this.ran) return this.parts.steps.replaceChildren();
    this.root.style.setProperty("--svd-sparse", view.kinds.find(({ kind }) => kind === "diagonal").colour);
    const steps = stepTexts(this.ran).map(({ text, share }) =>
      element("span", { title: text, className: "svd-step", style: `--svd-share: ${share}` }),
    );
    this.parts.steps.role = "img";
    this.parts.steps.ariaLabel = stepTexts(this.ran).map(({ text }) => text).join("; ");
    this.parts.steps.replaceChildren(element("span", { textContent: say("steps") }), ...steps);
  }

  #legend(view, locks) {
    const counts = kindCounts(view, this.band);
    const entries = view.kinds
      .filter(({ kind }) => counts[kind])
      .map((kind) => {
        const kept = locks.kinds.has(kind.kind);
        const heads = say(counts[kind.kind] === 1 ? "one_head" : "heads", { count: counts[kind.kind] });
        const fixed = !this.#canLock || kind.kind === "dense";
        const title = say(kept ? "follow_plan" : "keep_kind");
        const made = button("", fixed ? "" : title, () => this.#toggleLock("kinds", kind.kind));
        made.disabled = fixed;
        made.ariaPressed = String(kept);
        made.ariaLabel = `${kind.words}, ${heads}${kept ? `, ${say("kept")}` : ""}${fixed ? "" : `. ${title}`}`;
        made.append(swatch(kind), `${kind.words} ${counts[kind.kind]}${kept ? ` (${say("kept")})` : ""}`);
        return made;
      });
    refill(this.parts.legend, ...entries);
  }

  #actions() {
    const layer = this.map.cell?.layer;
    this.parts.actions.hidden = !this.#canLock;
    this.layer.hidden = layer === undefined;
    this.layerText.data = say("keep_layer", { layer });
    this.layerButton.ariaPressed = String(this.locks.layers.has(layer));
    this.kept.hidden = this.reset.hidden = this.locks.empty;
    this.kept.textContent = say("kept_list", { locks: this.locks });
  }

  #toggleLock(set, entry) {
    if (!this.#canLock) return;
    this.setLocks(this.locks.toggled(set, entry));
    this.refresh();
  }

  #tell(cell) {
    const { view, locks } = this.#current;
    const run = this.showsRun && this.ran ? `; ${layerText(this.ran, cell.layer)}` : "";
    const before = this.told;
    this.told = cell.layer;
    this.hoverText.data = cellText(view, locks, this.band, cell) + run;
    if (before !== cell.layer) this.#actions();
  }

  // Shows the picture of a head.
  #choose(cell) {
    this.#tell(cell);
    const { view, locks } = this.#current;
    this.picture.show(view.pictures, [this.band, cell.layer, cell.head], cellText(view, locks, this.band, cell));
  }
}

// A plan that leaves everything dense has nothing to look at.
function hasPatterns(view) {
  return view.bands.some(({ heads }) => heads.flat().some((number) => view.patterns[number].kind !== "dense"));
}

function swatch({ kind, colour, ink, mark }) {
  const made = element("canvas", { width: SWATCH * 2, height: SWATCH * 2, className: "svd-swatch", ariaHidden: "true" });
  const pen = made.getContext("2d");
  pen.fillStyle = colour;
  pen.fillRect(0, 0, made.width, made.height);
  drawMark(pen, mark, ink, made.width, made.height);
  made.dataset.kind = kind;
  return made;
}
