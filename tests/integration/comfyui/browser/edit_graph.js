// Copies nodes with a panel, puts them into a subgraph, and loads the workflow again; counts the plans that are asked for.

module.exports = async (page, options, { open, load }) => {
  let asked = 0;
  page.on("request", (request) => request.url().includes("/sparse_vdit/plan?") && asked++);
  const count = () => [asked, (asked = 0)][0];
  await open(page, options);
  await load(page, options.prompt);
  const found = { loading: count() };
  await page.evaluate(() => {
    app.canvas.selectItems(app.graph.nodes.filter(({ comfyClass }) => comfyClass.startsWith("SparseVDiT")));
    app.canvas.copyToClipboard();
  });
  await page.waitForTimeout(500);
  found.copying = count();
  found.inside = await page.evaluate(() => {
    const { subgraph } = app.graph.convertToSubgraph(app.canvas.selectedItems);
    return subgraph.nodes.map(({ comfyClass }) => comfyClass).sort();
  });
  await page.waitForTimeout(500);
  count();
  await load(page, options.prompt);
  found.again = count();
  found.panels = await page.evaluate(
    () => app.graph.nodes.filter(({ widgets }) => widgets?.some(({ name }) => name === "plan_view")).length,
  );
  return found;
};
