// Sparse-vDiT in the browser: puts the plan viewer on the nodes that load, search and run plans.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { NARROWEST, PlanPanel } from "./viewer/panel.js";
import { Locks } from "./viewer/locks.js";
import { SaidPanel } from "./viewer/said.js";
import { addStyle } from "./viewer/style.js";
import { say, speak } from "./viewer/words.js";

const LOAD = "SparseVDiTLoadPlan";
const SEARCH = "SparseVDiTSearchPlan";
const PATCH = "SparseVDiTPatchModel";
const SAVE = "SparseVDiTSavePlan"; // hands its plan on
const SAY = [SAVE, "SparseVDiTProfileHeads", "SparseVDiTPreviewPlan", "SparseVDiTCompareVideos"]; // have no map
const MISSING = { [LOAD]: "no_plan", [SEARCH]: "not_searched", [PATCH]: "not_connected" }; // keys of viewer/words.js
const KEPT = "keep_dense"; // an input of the patch node alone: the maps of the others are for looking
const LANGUAGE = "Comfy.Locale";
const ADDED_WITHIN = 200; // milliseconds
// properties of a node
const OPEN = "sparse_vdit_open";
const ROOM = "sparse_vdit_room"; // pixels of its height that its panel has added

const panels = new WeakMap(); // by node, of the nodes that are in a graph
const turned = new Map(); // whether the user has turned a patch node's map to its run or its plan, by nameOf

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

// All nodes of the workflow that have a panel, those in its subgraphs too: of what is in no workflow any more nothing is
// said, not even when it goes.
function* nodesWithPanel(graph = rootGraph(), seen = new Set()) {
  if (!graph || seen.has(graph)) return;
  seen.add(graph);
  for (const node of graph.nodes) {
    if (panels.has(node)) yield node;
    yield* nodesWithPanel(node.subgraph, seen);
  }
}

function rootGraph() {
  return app.rootGraph ?? app.graph;
}

function addPanel(node) {
  const panel = new PlanPanel({
    missing: say(MISSING[node.comfyClass]),
    setLocks: widget(node, KEPT) ? (locks) => setLocks(node, locks) : null,
    opened: (isOpen) =>
      asOneChange(() => {
        node.properties[OPEN] = isOpen;
        if (isOpen && node.size[0] < NARROWEST) node.setSize([NARROWEST, node.size[1]]);
        fit(node, panel);
      }),
    turned: (showsRun) => turned.set(nameOf(node), showsRun),
    resized: () => fit(node, panel),
    pictureOf,
  });
  attach(node, panel, "plan_view");
}

// The panel becomes a widget of the node, which is known for as long as the node is in a graph.
function attach(node, panel, name) {
  const shown = node.addDOMWidget(name, "sparse_vdit_view", panel.root, {
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
  after(node, "onRemoved", () => {
    panel.picture?.clear();
    panels.delete(node);
  });
}

// What a node without a map says when it has run; the frontend draws such texts for its own nodes alone.
function addSaid(node) {
  const panel = new SaidPanel({ resized: () => fit(node, panel) });
  attach(node, panel, "said");
  after(node, "onExecuted", (output) => output?.text && panel.say(output.text.join("\n")));
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
  const one = widget(node, KEPT);
  asOneChange(() => {
    one.value = String(locks);
    one.callback?.(one.value);
  });
}

function showLocks(node) {
  panels.get(node)?.showLocks(Locks.parse(widget(node, KEPT)?.value));
}

// A listed plan, asked for by name; answers to earlier questions are of no interest.
async function showListed(node) {
  const panel = panels.get(node);
  const name = listedName(node);
  if (!panel || (panel.wanted && panel.wanted === name)) return; // the question is on its way
  panel.wanted = name;
  showFound(panel, { error: say(name ? "loading" : hasText(node) ? "plan_as_text" : MISSING[LOAD]) });
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
    return { error: say("not_answered", { why: failure.message }) };
  }
}

function showFound(panel, { view, error }) {
  panel.missing = error ?? say(MISSING[LOAD]);
  panel.showPlan(view ?? null);
  refreshPatches();
}

// Picture of a head of a plan, or why there is none; the server says whether what the head attends is in it.
async function pictureOf(pictures, place) {
  try {
    const asked = new URLSearchParams({ ...pictures, head: place.join(",") });
    const answer = await api.fetchApi(`/sparse_vdit/head?${asked}`);
    if (!answer.ok) return await answer.json();
    if (answer.status === 204) return { nothing: true };
    const measured = answer.headers.get("Sparse-vDiT-Attends") === "measured";
    return { picture: URL.createObjectURL(await answer.blob()), measured };
  } catch (failure) {
    return { error: failure.message };
  }
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
  for (const node of nodesWithPanel()) {
    if (node.comfyClass !== PATCH) continue;
    const panel = panels.get(node);
    const source = panels.get(planSource(node));
    panel.showPlan(atSizeThatRan(panel, source?.view ?? null));
  }
}

// The connected plan as the last run met it, with its densities and speed at that size; without one, what ran.
function atSizeThatRan(panel, plan) {
  const ran = panel.ran?.view ?? null;
  if (!plan || !ran) return plan ?? ran;
  if (panel.joined?.plan === plan && panel.joined.ran === ran) return panel.joined.view;
  const heads = ({ bands, patterns }) => JSON.stringify([bands, patterns.map(({ words }) => words)]);
  const { errors, pictures } = plan;
  const view = heads(plan) === heads(ran) ? { ...ran, errors, pictures } : plan;
  panel.joined = { plan, ran, view };
  return view;
}

function refresh(node) {
  const panel = panels.get(node);
  if (!panel || !node.graph || !(node.comfyClass in MISSING)) return;
  showLocks(node);
  if (node.comfyClass === LOAD) showListed(node);
  else refreshPatches();
  if (node.properties[OPEN]) panel.open(true, false);
  else fit(node, panel); // workflows of versions with fewer inputs have lower nodes
}

// The node that the server calls by a path of numbers, those before the last being subgraphs.
function nodeOf(path) {
  let graph = rootGraph();
  let node = null;
  for (const number of String(path).split(":")) {
    node = graph?.getNodeById(Number(number));
    graph = node?.subgraph;
  }
  return node;
}

function nameOf(node) {
  return `${node.graph.id} ${node.id}`;
}

// What a node ran, whichever workflow is shown by now: others have nodes of the same number.
function showRun(run) {
  const node = nodeOf(run.node);
  if (run.workflow !== rootGraph()?.id || node?.comfyClass !== PATCH) return;
  turned.delete(nameOf(node));
  panels.get(node)?.showRun(run);
  refreshPatches();
}

// What a node says while its run goes on.
function showSaid({ node: path, workflow, text }) {
  const node = nodeOf(path);
  if (workflow === rootGraph()?.id) panels.get(node)?.say(text);
}

// The server keeps what the nodes of a workflow have run: their panels begin anew with the page, a tab and every undo.
async function showLastRuns() {
  const workflow = rootGraph()?.id;
  if (!workflow || ![...nodesWithPanel()].some(({ comfyClass }) => comfyClass === PATCH)) return;
  const answer = await api.fetchApi(`/sparse_vdit/runs?workflow=${encodeURIComponent(workflow)}`);
  const { runs } = await answer.json();
  if (workflow !== rootGraph()?.id) return;
  for (const run of Object.values(runs)) {
    const node = nodeOf(run.node);
    const panel = node?.comfyClass === PATCH ? panels.get(node) : null;
    if (panel && !panel.ran) panel.showRun(run, turned.get(nameOf(node)) ?? true);
  }
  refreshPatches();
}

app.registerExtension({
  name: "SparseVDiT.PlanViewer",

  setup() {
    addStyle();
    const settings = app.ui.settings;
    speak(settings.getSettingValue(LANGUAGE));
    settings.addEventListener(`${LANGUAGE}.change`, ({ detail }) => speak(detail.value)); // nodes are made anew then
    api.addEventListener("sparse_vdit.ran", ({ detail }) => showRun(detail));
    api.addEventListener("sparse_vdit.said", ({ detail }) => showSaid(detail));
    const refreshAll = () => [...nodesWithPanel()].forEach((node) => panels.get(node).refresh());
    new MutationObserver(refreshAll).observe(document.body, { attributes: true, attributeFilter: ["class", "style"] });
  },

  afterConfigureGraph() {
    showLastRuns().catch((failure) => console.warn("Sparse-vDiT: the last runs could not be asked for:", failure));
  },

  nodeCreated(node) {
    if (SAY.includes(node.comfyClass)) addSaid(node);
    if (!(node.comfyClass in MISSING)) return;
    addPanel(node);
    whenChanged(node, KEPT, () => showLocks(node));
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
