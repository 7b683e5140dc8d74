// Runs a workflow twice and takes a picture of the patch node between its neighbours, with the report of the second run.

module.exports = async (page, options, { open, load }) => {
  await open(page, options);
  await load(page, options.prompt);
  await page.evaluate(arrange, options.places);
  for (let run = 0; run < 2; run++) await page.evaluate(queue);
  await page.waitForTimeout(2000);
  await page.screenshot({ path: options.file, clip: options.clip });
  return {};
};

function arrange(places) {
  for (const node of app.graph.nodes) {
    const [x, y, width, height] = places[node.comfyClass] ?? [40, 900, 300, 100];
    node.pos = [x, y];
    node.setSize([width, height]);
  }
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.setDirty(true, true);
}

async function queue() {
  const ends = ["execution_success", "execution_error", "execution_interrupted"];
  const ended = new Promise((done) => {
    for (const end of ends) app.api.addEventListener(end, () => done(end), { once: true });
  });
  await app.queuePrompt(0, 1);
  const end = await ended;
  if (end !== ends[0]) throw new Error(end);
}
