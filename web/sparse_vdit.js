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
const OPEN = "sparse_vdit_open"; // property of a node

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
    opened: (isOpen) => {
      node.properties[OPEN] = isOpen;
    },
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

function fit(node, panel) {
  if (panel.isOpen && node.size[0] < NARROWEST) node.setSize([NARROWEST, node.size[1]]);
  node.setSize([node.size[0], node.computeSize()[1]]);
  node.setDirtyCanvas?.(true, true);
}

function setLocks(node, locks) {
  const one = widget(node, "keep_dense");
  one.value = String(locks);
  one.callback?.(one.value);
  app.graph.change?.();
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
  if (!panel) return;
  const name = widget(node, "plan_name")?.value;
  if (panel.wanted === name) return; // the question is on its way
  panel.wanted = name;
  const answer = await api.fetchApi(`/sparse_vdit/plan?name=${encodeURIComponent(name ?? "")}`);
  const { view, error } = await answer.json();
  if (panel.wanted !== name) return;
  panel.wanted = undefined;
  panel.missing = error ?? MISSING[LOAD];
  panel.showPlan(view ?? null);
  panel.resized();
  refreshPatches();
}

// Address of the picture of a head, for plans that are listed.
function pictureOf(node, band, { layer, head }) {
  const name = node.comfyClass === LOAD ? widget(node, "plan_name")?.value : null;
  if (!name) return null;
  return api.apiURL(`/sparse_vdit/head?name=${encodeURIComponent(name)}&head=${band},${layer},${head}`);
}

// The node that a patch node's plan comes from, None where none is connected.
function planSource(node) {
  let from = node;
  for (let depth = 0; from && depth < 20; depth++) {
    const slot = from.inputs?.findIndex((input) => input.name === "plan" || from.comfyClass === "Reroute") ?? -1;
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
    whenChanged(node, "plan_name", () => showListed(node));
    after(node, "onConfigure", () => queueMicrotask(() => refresh(node)));
    after(node, "onExecuted", (output) => {
      const view = output?.sparse_vdit_plan?.[0];
      if (view) panels.get(node)?.showPlan(view);
      if (view) refreshPatches();
    });
    after(node, "onConnectionsChange", () => queueMicrotask(refreshPatches));
  },
});
