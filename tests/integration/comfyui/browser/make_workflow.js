// Makes a workflow in the frontend's own form of one in API form: nodes in titled groups side by side, a note below.

const NOTE_HEIGHT = 260;
const GAP = 60; // between nodes
const EDGE = 24; // between a group and its nodes
const GROWS = { // pixels, when a node shows what a run did
  SparseVDiTPatchModel: 120,
  SparseVDiTCompareVideos: 320,
  SparseVDiTPreviewPlan: 400,
  SparseVDiTProfileHeads: 60,
  SparseVDiTSavePlan: 60,
  SaveVideo: 200,
};

module.exports = async (page, options, { open, picture, showAll }) => {
  await open(page, options);
  const made = {};
  for (const example of options.examples) {
    const sizes = { note: NOTE_HEIGHT, gap: GAP, edge: EDGE, grows: GROWS };
    made[example.name] = await page.evaluate(make, { ...example, sizes });
    await showAll(page);
    await page.keyboard.press("Escape"); // what asks for models that are not here
    await page.waitForTimeout(1500);
    await picture(example.name);
  }
  return { made };
};

async function make({ name, prompt, groups, titles, note, sizes }) {
  await app.loadApiJson(prompt, name);
  await new Promise((done) => setTimeout(done, 1500));
  const nodeOf = (number) => app.graph.getNodeById(Number(number));
  const boxes = [];
  let left = 0;
  for (const [title, members] of Object.entries(groups)) {
    let top = 0;
    let widest = 0;
    for (const number of members) {
      const node = nodeOf(number);
      node.pos = [left, top];
      for (const widget of node.widgets ?? []) {
        if (widget.name === "control_after_generate") widget.value = "fixed"; // to compare with later runs
      }
      if (node.comfyClass === "CLIPTextEncode") node.setSize([400, 130]);
      if (node.comfyClass.startsWith("SparseVDiT")) node.setSize([Math.max(330, node.size[0]), node.size[1]]);
      if (titles[number]) node.title = titles[number];
      top += node.size[1] + sizes.gap + (sizes.grows[node.comfyClass] ?? 0);
      widest = Math.max(widest, node.size[0]);
    }
    boxes.push({ title, left, width: widest, height: top - sizes.gap });
    left += widest + 2 * sizes.edge + 30;
  }
  const high = Math.max(...boxes.map(({ height }) => height));
  for (const { title, left: at, width } of boxes) {
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [at - sizes.edge, -90];
    group.size = [width + 2 * sizes.edge, high + 90 + sizes.edge];
    app.graph.add(group);
  }
  const shown = LiteGraph.createNode("MarkdownNote");
  app.graph.add(shown);
  shown.pos = [-sizes.edge, high + 90];
  shown.setSize([Math.min(900, left - 30), sizes.note]);
  shown.widgets[0].value = note;
  app.canvas.ds.scale = 0.6;
  app.canvas.ds.offset = [100, 200];
  return app.graph.serialize();
}
