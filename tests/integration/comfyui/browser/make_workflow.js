// Makes a workflow in the frontend's own form, and its picture, of one in API form: nodes in columns, a note below.

const NOTE_HEIGHT = 190;
const GAP = 70; // between nodes
const REPORT = 150; // pixels that a patch node grows by when it shows what a run did

module.exports = async (page, options, { open }) => {
  await open(page, options);
  const made = {};
  for (const { name, prompt, columns, titles, note } of options.examples) {
    made[name] = await page.evaluate(
      async ({ name, prompt, columns, titles, note, sizes }) => {
        await app.loadApiJson(prompt, name);
        await new Promise((done) => setTimeout(done, 1500));
        const nodeOf = (number) => app.graph.getNodeById(Number(number));
        let left = 0;
        let low = 0;
        for (const column of columns) {
          let top = 0;
          let widest = 0;
          for (const number of column) {
            const node = nodeOf(number);
            node.pos = [left, top];
            for (const widget of node.widgets ?? []) {
              if (widget.name === "control_after_generate") widget.value = "fixed"; // to compare with later runs
            }
            if (node.comfyClass === "CLIPTextEncode") node.setSize([400, 130]);
            if (titles[number]) node.title = titles[number];
            top += node.size[1] + sizes.gap + (node.comfyClass === "SparseVDiTPatchModel" ? sizes.report : 0);
            widest = Math.max(widest, node.size[0]);
          }
          left += widest + 60;
          low = Math.max(low, top);
        }
        const shown = LiteGraph.createNode("MarkdownNote");
        app.graph.add(shown);
        shown.pos = [0, low];
        shown.setSize([left - 60, sizes.note]);
        shown.widgets[0].value = note;
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [0, 0];
        return app.graph.serialize();
      },
      { name, prompt, columns, titles, note, sizes: { note: NOTE_HEIGHT, gap: GAP, report: REPORT } },
    );
    await take(page, `${options.folder}/${name}.jpg`);
  }
  for (const [name, workflow] of Object.entries(options.byHand)) {
    await page.evaluate(async (workflow) => app.loadGraphData(workflow), workflow);
    await page.waitForTimeout(1500);
    await take(page, `${options.folder}/${name}.jpg`);
  }
  return { made };
};

// A picture of the whole graph.
async function take(page, file) {
  await page.keyboard.press("Escape"); // what asks for models that are not here
  const size = await page.evaluate(() => {
    const boxes = app.graph.nodes.map(({ pos, size }) => [pos[0], pos[1] - 40, pos[0] + size[0], pos[1] + size[1]]);
    const [left, top] = [0, 1].map((side) => Math.min(...boxes.map((box) => box[side])));
    const [right, bottom] = [2, 3].map((side) => Math.max(...boxes.map((box) => box[side])));
    const scale = Math.min(1380 / (right - left), 1020 / (bottom - top));
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [-left + 80 / scale, -top + 120 / scale];
    app.canvas.setDirty(true, true);
    return [(right - left) * scale, (bottom - top) * scale];
  });
  await page.waitForTimeout(1500);
  await page.keyboard.press("Escape");
  await page.waitForTimeout(500);
  const clip = { x: 66, y: 106, width: size[0] + 28, height: size[1] + 28 };
  await page.screenshot({ path: file, type: "jpeg", quality: 82, clip });
}
