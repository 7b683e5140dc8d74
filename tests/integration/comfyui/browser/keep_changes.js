// Opens and closes the map on the node that loads a plan; keeps two layers dense on the patch node by one click each,
// undoes one, reloads; gives the first node a size and reloads.

module.exports = async (page, options, { open, load, panelOf }) => {
  const [LOAD, PATCH] = ["SparseVDiTLoadPlan", "SparseVDiTPatchModel"];
  const kept = () => read(page, PATCH, (node) => node.widgets.find(({ name }) => name === "keep_dense").value);
  const size = () => read(page, LOAD, (node) => Array.from(node.size, Math.round));
  const found = {};
  await open(page, options);
  await load(page, options.prompt);
  let panel = await panelOf(page, LOAD);
  const closed = await size();
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-map").waitFor();
  await page.waitForTimeout(1000);
  const opened = await size();
  found.grown = opened[1] - closed[1];
  found.closed = [];
  for (let time = 0; time < 2; time++) {
    await panel.locator(".svd-toggle").click();
    await page.waitForTimeout(500);
    found.closed.push((await size())[1]);
    await panel.locator(".svd-toggle").click();
    await page.waitForTimeout(500);
  }
  found.takenBack = opened[1] - found.closed[0];

  panel = await panelOf(page, PATCH);
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-map").waitFor();
  await page.waitForTimeout(1000);
  const numbers = (layer) => ({ position: { x: 10, y: 18 + layer * options.cell } });
  await panel.locator(".svd-map").click(numbers(0));
  await page.waitForTimeout(500);
  await panel.locator(".svd-map").click(numbers(2));
  await page.waitForTimeout(500);
  found.locked = await kept();
  await page.evaluate(() => app.extensionManager.command.execute("Comfy.Undo"));
  await page.waitForTimeout(2000);
  found.undone = await kept();

  panel = await panelOf(page, PATCH);
  await panel.locator(".svd-map").click(numbers(3));
  await page.waitForTimeout(3000); // until the frontend has put the workflow aside
  await reload(page, options, open);
  found.reloaded = await kept();
  await panelOf(page, LOAD); // one that is off the screen has no height
  await page.waitForTimeout(2000);

  await page.evaluate((kind) => {
    const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
    app.canvas.emitBeforeChange();
    node.setSize([node.size[0] + 50, node.size[1] + 90]);
    app.canvas.emitAfterChange();
  }, LOAD);
  await page.waitForTimeout(3000);
  found.sized = await size();
  await reload(page, options, open);
  await panelOf(page, LOAD);
  await page.waitForTimeout(2000);
  found.sizeReloaded = await size();
  return found;
};

async function reload(page, options, open) {
  await page.reload();
  await open(page, options);
  await page.waitForFunction(() => app.graph.nodes.length > 3, null, { timeout: 30000 });
  await page.waitForTimeout(2000);
}

function read(page, kind, value) {
  return page.evaluate(`(${value})(app.graph.nodes.find(({ comfyClass }) => comfyClass === "${kind}"))`);
}
