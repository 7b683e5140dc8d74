// Sparse-vDiT in the browser: puts the plan viewer on the nodes that load, search and run plans.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { NARROWEST, PlanPanel } from "./viewer/panel.js";
import { Locks } from "./viewer/locks.js";
import { addStyle } from "./viewer/style.js";

const LOAD = "SparseVDiTLoadPlan";
const SEARCH = "SparseVDiTSearchPlan";
const PATCH = "SparseVDiTPatchModel";
const SAVE = "SparseVDiTSavePlan"; // hands its plan on
const MISSING = {
  [LOAD]: "There is no plan to show.",
  [SEARCH]: "Run the workflow to see the plan that is found.",
  [PATCH]: "Without a connected plan, the map shows what a run had once it has ended.",
};
const LOADING = "Loading the plan.";
const TEXT = "The plan in plan_text is shown after a run.";
const ADDED_WITHIN = 200; // milliseconds
// properties of a node
const OPEN = "sparse_vdit_open";
const ROOM = "sparse_vdit_room"; // pixels of its height that its panel has added

const panels = new Map(); // by node, of the nodes that are in a graph

function widget(node, name) {
  return node.widgets?.find((one) => one.name === name);
}

// Hears of every value that a widget is given by a user.
function whenChanged(node, name, heard) {
  const one = widget(node, name);
  if (one) after(one, "callback", heard);
}

// Hears of a call of a node or a widget, once it is done.
function after(owner, name, heard) {
  const before = owner[name];
  owner[name] = function (...values) {
    const result = before?.apply(this, values);
    heard(...values);
    return result;
  };
}

function addPanel(node) {
  const panel = new PlanPanel({
    missing: MISSING[node.comfyClass],
    setLocks: (locks) => setLocks(node, locks),
    opened: (isOpen) =>
      asOneChange(() => {
        node.properties[OPEN] = isOpen;
        if (isOpen && node.size[0] < NARROWEST) node.setSize([NARROWEST, node.size[1]]);
        fit(node, panel);
      }),
    resized: () => fit(node, panel),
    pictureOf: (band, cell) => pictureOf(node, band, cell),
  });
  const shown = node.addDOMWidget("plan_view", "sparse_vdit_view", panel.root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => panel.height,
    getMaxHeight: () => panel.height,
  });
  shown.serialize = false;
  // a copied node is made and configured without ever being in a graph
  after(node, "onAdded", () => {
    panels.set(node, panel);
    queueMicrotask(() => refresh(node)); // widgets of a new node have their values by then
  });
  after(node, "onRemoved", () => panels.delete(node));
}

// Makes room for the panel, and takes back no more than it made: every other height is the user's.
function fit(node, panel) {
  const needed = node.computeSize()[1];
  const less = Math.max(0, (panel.needed ?? needed) - needed); // before the first time, the node is as it was saved
  panel.needed = needed;
  const [width, height] = node.size;
  const made = node.properties[ROOM] ?? 0;
  const change = Math.max(needed - height, -Math.min(made, panel.isOpen ? less : made));
  if (!change) return;
  node.properties[ROOM] = made + change;
  node.setSize([width, height + change]);
  node.setDirtyCanvas?.(true, true);
  if (change > 0) setTimeout(() => countAdded(node, height + change), ADDED_WITHIN);
}

// Nodes that are drawn as elements of the page take what these need a little later, which is for the panel too.
function countAdded(node, height) {
  node.properties[ROOM] += Math.max(0, node.size[1] - height);
}

// Kept in the workflow at once, as one step to undo: the frontend looks for changes when a button of the mouse is let
// go, and a click is told of after that.
function asOneChange(change) {
  app.canvas.emitBeforeChange();
  try {
    change();
  } finally {
    app.canvas.emitAfterChange();
  }
}

function setLocks(node, locks) {
  const one = widget(node, "keep_dense");
  asOneChange(() => {
    one.value = String(locks);
    one.callback?.(one.value);
  });
}

function locksOf(node) {
  return Locks.parse(widget(node, "keep_dense")?.value);
}

function refreshLocks(node) {
  panels.get(node)?.showLocks(locksOf(node));
  refreshPatches();
}

// A listed plan, asked for by name; answers to earlier questions are of no interest.
async function showListed(node) {
  const panel = panels.get(node);
  const name = listedName(node);
  if (!panel || (panel.wanted && panel.wanted === name)) return; // the question is on its way
  panel.wanted = name;
  showFound(panel, { error: name ? LOADING : hasText(node) ? TEXT : MISSING[LOAD] });
  if (!name) return;
  const answer = await ask(name);
  if (panel.wanted !== name) return;
  panel.wanted = null;
  showFound(panel, answer);
  panel.resized();
}

// The name of the listed plan that a node loads, none where it has a plan as text or none at all.
function listedName(node) {
  return node.comfyClass !== LOAD || hasText(node) ? null : widget(node, "plan_name")?.value;
}

function hasText(node) {
  return Boolean(widget(node, "plan_text")?.value?.trim());
}

async function ask(name) {
  try {
    const answer = await api.fetchApi(`/sparse_vdit/plan?name=${encodeURIComponent(name)}`);
    return await answer.json();
  } catch (failure) {
    return { error: `The plan could not be asked for: ${failure.message}. Choose it again.` };
  }
}

function showFound(panel, { view, error }) {
  panel.missing = error ?? MISSING[LOAD];
  panel.showPlan(view ?? null);
  refreshPatches();
}

// Address of the picture of a head, for plans that are listed.
function pictureOf(node, band, { layer, head }) {
  const name = listedName(node);
  if (!name) return null;
  return api.apiURL(`/sparse_vdit/head?name=${encodeURIComponent(name)}&head=${band},${layer},${head}`);
}

// The node that a patch node's plan comes from, None where none is connected.
function planSource(node) {
  let from = node;
  for (let depth = 0; from && depth < 20; depth++) {
    const slot = from.inputs?.findIndex((input) => input.name === "plan" || from.type === "Reroute") ?? -1;
    from = slot < 0 ? null : from.getInputNode(slot);
    if (from && from.comfyClass !== SAVE && from.type !== "Reroute") return from;
  }
  return null;
}

function refreshPatches() {
  for (const [node, panel] of panels) {
    if (node.comfyClass !== PATCH || !node.graph) continue;
    const source = panels.get(planSource(node));
    panel.showPlan(source?.view ?? panel.ran?.view ?? null, source?.locks);
  }
}

function refresh(node) {
  const panel = panels.get(node);
  if (!panel || !node.graph) return;
  panel.showLocks(locksOf(node));
  if (node.comfyClass === LOAD) showListed(node);
  else refreshPatches();
  if (node.properties[OPEN]) panel.open(true, false);
}

// The node that the server calls by a path of numbers, those before the last being subgraphs.
function nodeOf(path) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const number of String(path).split(":")) {
    node = graph?.getNodeById(Number(number));
    graph = node?.subgraph;
  }
  return node;
}

app.registerExtension({
  name: "SparseVDiT.PlanViewer",

  setup() {
    addStyle();
    api.addEventListener("sparse_vdit.ran", ({ detail }) => {
      panels.get(nodeOf(detail.node))?.showRun(detail);
      refreshPatches();
    });
    new MutationObserver(() => panels.forEach((panel) => panel.refresh())).observe(document.body, {
      attributes: true,
      attributeFilter: ["class", "style"],
    });
  },

  nodeCreated(node) {
    if (!(node.comfyClass in MISSING)) return;
    addPanel(node);
    whenChanged(node, "keep_dense", () => refreshLocks(node));
    for (const name of ["plan_name", "plan_text"]) whenChanged(node, name, () => showListed(node));
    after(node, "onConfigure", () => queueMicrotask(() => refresh(node)));
    after(node, "onExecuted", (output) => {
      const view = output?.sparse_vdit_plan?.[0];
      if (view) panels.get(node)?.showPlan(view);
      if (view) refreshPatches();
    });
    after(node, "onConnectionsChange", () => queueMicrotask(refreshPatches));
  },
});
