// Runs a workflow and writes down what the frontend is told of the progress of its nodes, and what stands on them.

module.exports = async (page, options, { open, load, showAll, picture }) => {
  await open(page, options);
  await load(page, options.prompt);
  await showAll(page);
  await page.evaluate(() => {
    window.told = [];
    app.api.addEventListener("progress_state", ({ detail }) => {
      for (const { node_id, value, max, state } of Object.values(detail.nodes)) {
        const { comfyClass } = app.graph.getNodeById(node_id);
        const last = window.told.findLast((one) => one.kind === comfyClass);
        if (last && last.value === value && last.max === max && last.state === state) continue;
        window.told.push({ kind: comfyClass, value, max, state });
      }
      setTimeout(look); // once the frontend has put it on the nodes
    });
    window.bars = {}; // the largest share at which a bar stood on a node, of those that were not full
    const look = () => {
      for (const { comfyClass, progress } of app.graph.nodes) {
        if (progress > 0 && progress < 1) window.bars[comfyClass] = Math.max(window.bars[comfyClass] ?? 0, progress);
      }
    };
  });
  const ended = page.evaluate(
    () => new Promise((done) => {
      const ends = ["execution_success", "execution_error", "execution_interrupted"];
      ends.forEach((kind) => app.api.addEventListener(kind, () => done(kind)));
      setTimeout(() => done("too late"), 300000);
    }),
  );
  await page.evaluate(() => app.queuePrompt(0, 1));
  const how = await ended;
  await page.waitForTimeout(500);
  await picture("ended");
  return { how, ...(await page.evaluate(() => ({ told: window.told, bars: window.bars }))) };
};
