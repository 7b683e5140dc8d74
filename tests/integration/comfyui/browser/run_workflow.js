// Loads a workflow as it is, makes its video small, runs it from the frontend, and tells what became of it.

module.exports = async (page, options, { open, showAll, picture }) => {
  await open(page, options);
  const found = await page.evaluate(run, options);
  await page.keyboard.press("Escape"); // what the frontend may have opened above the graph
  await showAll(page);
  await page.waitForTimeout(1500);
  await picture(options.name);
  return found;
};

async function run({ workflow, size }) {
  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  await app.loadGraphData(workflow);
  await pause(1500);
  for (const node of app.graph.nodes) {
    for (const widget of node.widgets ?? []) if (widget.name in size) widget.value = size[widget.name];
  }
  const ends = ["execution_success", "execution_error", "execution_interrupted"];
  const ended = new Promise((done) => {
    for (const end of ends) app.api.addEventListener(end, ({ detail }) => done({ end, ...detail }), { once: true });
  });
  const queued = await app.queuePrompt(0, 1);
  const result = queued ? await ended : { end: "refused", why: app.lastNodeErrors };
  await pause(1000); // until the last node has shown what it has
  const reports = app.graph.nodes
    .filter(({ comfyClass }) => comfyClass === "SparseVDiTPatchModel")
    .map(({ widgets }) => widgets.find(({ name }) => name === "plan_view").element.querySelector(".svd-said").title);
  return { ...result, reports };
}
