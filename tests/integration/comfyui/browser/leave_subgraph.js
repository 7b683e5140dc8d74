// Puts nodes with a panel into a subgraph, enters and leaves it, and takes the workflow away; tells how many panels hear
// of a change of the theme each time.

module.exports = async (page, options, { open, load }) => {
  const found = {};
  await open(page, options);
  await page.evaluate(async () => {
    const { PlanPanel } = await import("/extensions/Sparse-vDiT/viewer/panel.js");
    const { refresh } = PlanPanel.prototype;
    PlanPanel.prototype.refresh = function () {
      window.refreshed?.add(this);
      refresh.call(this);
    };
  });
  await load(page, options.prompt);
  found.loaded = await hearing(page);
  await page.evaluate(async () => {
    app.canvas.selectItems(app.graph.nodes.filter(({ comfyClass }) => comfyClass.startsWith("SparseVDiT")));
    const { subgraph, node } = app.graph.convertToSubgraph(app.canvas.selectedItems);
    const wait = () => new Promise((done) => setTimeout(done, 1000));
    await wait();
    app.canvas.openSubgraph(subgraph, node);
    await wait();
  });
  found.entered = await hearing(page);
  await page.evaluate(() => app.canvas.setGraph(app.rootGraph));
  await page.waitForTimeout(1000);
  found.left = await hearing(page);
  await load(page, options.other);
  found.gone = await hearing(page);

  await load(page, options.prompt);
  await page.evaluate(() => {
    app.canvas.selectItems(app.graph.nodes.filter(({ comfyClass }) => comfyClass.startsWith("SparseVDiT")));
    const { node } = app.graph.convertToSubgraph(app.canvas.selectedItems);
    app.canvas.deselectAll();
    app.rootGraph.remove(node);
  });
  await page.waitForTimeout(1000);
  found.removed = await hearing(page);
  return found;
};

function hearing(page) {
  return page.evaluate(async () => {
    window.refreshed = new Set();
    document.body.classList.toggle("svd-test");
    await new Promise((done) => setTimeout(done, 100));
    const { size } = window.refreshed;
    window.refreshed = null;
    return size;
  });
}
