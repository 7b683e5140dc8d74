// Runs a workflow, and reads what stands on its nodes as one sees it: each text with whether all of it can be seen inside
// its node, and how often it is on the page.

module.exports = async (page, options, { open, load, picture }) => {
  await open(page, options);
  await load(page, options.prompt);
  await page.evaluate(() => {
    // no node in the way of another
    app.graph.nodes.forEach((node, number) => (node.pos = [(number % 6) * 700, Math.floor(number / 6) * 1400]));
  });
  const ended = page.evaluate(
    () => new Promise((done) => {
      const ends = ["execution_success", "execution_error", "execution_interrupted"];
      ends.forEach((kind) => app.api.addEventListener(kind, () => done(kind)));
    }),
  );
  await page.evaluate(() => app.queuePrompt(0, 1));
  const found = { end: await ended, nodes: {} };
  await page.waitForTimeout(1500);
  for (const kind of options.kinds) {
    await show(page, kind);
    found.nodes[kind] = await page.evaluate(read, kind);
    await picture(kind);
    if (!options.maps.includes(kind)) continue;
    await page.evaluate((kind) => {
      const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
      node.widgets.find(({ name }) => name === "plan_view").element.querySelector(".svd-toggle").click();
    }, kind);
    await page.waitForTimeout(1500);
    found.nodes[`${kind}, open`] = await page.evaluate(read, kind);
    await picture(`${kind}_open`);
  }
  // as a workflow of a version with fewer inputs has it
  await page.evaluate(async () => {
    const workflow = app.graph.serialize();
    for (const node of workflow.nodes) {
      if (node.type === "SparseVDiTPatchModel") [node.size, node.properties] = [[270, 200], {}];
    }
    await app.loadGraphData(workflow);
  });
  await page.waitForTimeout(1500);
  await show(page, "SparseVDiTPatchModel");
  found.low = await page.evaluate(read, "SparseVDiTPatchModel");
  await picture("low");
  return found;
};

async function show(page, kind) {
  await page.evaluate((kind) => {
    const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [120 - node.pos[0], 140 - node.pos[1]];
    app.canvas.setDirty(true, true);
  }, kind);
  await page.waitForTimeout(1000);
}

function read(kind) {
  const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
  const panel = node.widgets.find(({ name }) => name === "plan_view" || name === "said").element;
  const said = panel.querySelector(".svd-said");
  const box = said.getBoundingClientRect();
  const graph = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  const left = graph.left + (node.pos[0] + offset[0]) * scale;
  const top = graph.top + (node.pos[1] + offset[1]) * scale;
  const inNode = ({ left: x, top: y, right, bottom }) =>
    x >= left - 1 && y >= top - 1 && right <= left + node.size[0] * scale + 1 && bottom <= top + node.size[1] * scale + 1;
  const parts = [...said.children].filter((part) => part.textContent);
  const text = parts.map((part) => part.textContent);
  const page = document.body.innerText;
  const hit = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  const toggle = panel.querySelector(".svd-toggle")?.getBoundingClientRect();
  return {
    text,
    inside: (said.hidden || inNode(box)) && (!toggle || inNode(toggle)),
    whole: said.scrollHeight <= said.clientHeight + 1 && said.scrollWidth <= said.clientWidth + 1,
    seen: Boolean(hit && said.contains(hit)),
    times: text.map((one) => page.split(one.split("\n")[0]).length - 1),
  };
}
