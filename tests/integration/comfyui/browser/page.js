// A real Chromium at a real ComfyUI. Run as: node page.js <scenario> <JSON of its options>; the last line is its result.
// A scenario is a file beside this one whose function gets the page, the options and the helpers below.

const path = require("path");
const options = JSON.parse(process.argv[3]);
const { chromium } = require(options.playwright);

// What the frontend itself says of a server without network, of a user without files, and of models that are not here.
const KNOWN = [/Content Security Policy/, /graph accessed before initialization/];

const NOT_LOADED = /Failed to load resource/; // which is told of what is the pack's: its answers and its files
const OURS = /\/sparse_vdit\/|\/extensions\/Sparse-vDiT\//;

function known(text, url) {
  return KNOWN.some((one) => one.test(text)) || (NOT_LOADED.test(text) && !OURS.test(url));
}

async function open(page, { url, vue, palette = "dark", locale = "en" }) {
  const settings = {
    "Comfy.TutorialCompleted": true, // else templates are shown above all
    "Comfy.VueNodes.Enabled": vue,
    "Comfy.ColorPalette": palette,
    "Comfy.Locale": locale,
    "Comfy.Minimap.Visible": false,
  };
  await page.request.post(`${url}settings`, { data: settings });
  await page.goto(url, { timeout: 180000 });
  await page.waitForFunction(() => window.app?.extensionManager && window.app.canvas, null, { timeout: 180000 });
  await page.waitForSelector(".graph-canvas-container canvas, #graph-canvas", { timeout: 60000 });
  await page.waitForTimeout(1000);
}

async function load(page, prompt) {
  await page.evaluate(async (prompt) => {
    await app.loadApiJson(prompt, "test");
  }, prompt);
  await page.waitForTimeout(1500);
}

// Puts the whole graph on the screen, for a picture.
async function showAll(page) {
  await page.evaluate(() => {
    const boxes = app.graph.nodes.map(({ pos, size }) => [pos[0], pos[1] - 40, pos[0] + size[0], pos[1] + size[1]]);
    const [left, top] = [0, 1].map((side) => Math.min(...boxes.map((box) => box[side])));
    const [right, bottom] = [2, 3].map((side) => Math.max(...boxes.map((box) => box[side])));
    const scale = Math.min(1350 / (right - left), 1050 / (bottom - top));
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [-left + 90 / scale, -top + 110 / scale];
    app.canvas.setDirty(true, true);
  });
}

// Loads a workflow that has a number of its own, as those in ComfyUI's own form have.
async function loadNumbered(page, prompt) {
  await load(page, prompt);
  await page.evaluate(async () => {
    const workflow = app.graph.serialize();
    workflow.id = LiteGraph.uuidv4();
    await app.loadGraphData(workflow, true, true, "numbered");
  });
  await page.waitForTimeout(1500);
}

// Puts the node of a kind in the upper left of the screen, and gives what is in it: all panels lie above the graph.
async function panelOf(page, kind) {
  const place = await page.evaluate((kind) => {
    const nodes = app.graph.nodes.filter(({ comfyClass }) => kind === comfyClass);
    const shown = nodes[0].widgets.find(({ name }) => name === "plan_view").element;
    shown.dataset.kind = kind;
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [90 - nodes[0].pos[0], 110 - nodes[0].pos[1]];
    app.canvas.setDirty(true, true);
    return nodes.length;
  }, kind);
  if (place !== 1) throw new Error(`${place} nodes of kind ${kind}`);
  await page.waitForTimeout(700);
  return page.locator(`.svd-panel[data-kind="${kind}"]`);
}

async function main() {
  const browser = await chromium.launch({
    executablePath: options.chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
  });
  const page = await browser.newPage({ viewport: { width: 1500, height: 1250 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => {
    const { url } = message.location();
    if (message.type() === "error" && !known(message.text(), url)) errors.push(`${message.text()} ${url}`);
  });
  const picture = async (name) => {
    if (options.pictures) await page.screenshot({ path: path.join(options.pictures, `${name}.png`) });
  };
  try {
    const scenario = require(path.resolve(__dirname, process.argv[2]));
    const result = await scenario(page, options, { open, load, loadNumbered, showAll, panelOf, picture });
    console.log(JSON.stringify({ ...result, errors }));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
