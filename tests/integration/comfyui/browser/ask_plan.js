// Shows a plan that is slow to come, one that does not come, one that is text, and one behind a reroute.

const ADDRESS = "**/sparse_vdit/plan?*";

module.exports = async (page, options, { open, load, panelOf }) => {
  const found = {};
  await open(page, options);
  await load(page, options.prompt);
  const panel = await panelOf(page, "SparseVDiTLoadPlan");
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-map").waitFor();
  const title = () => panel.locator(".svd-title").textContent();
  const give = async (name, value) => {
    await page.evaluate(([name, value]) => {
      const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === "SparseVDiTLoadPlan");
      const widget = node.widgets.find((one) => one.name === name);
      widget.value = value;
      widget.callback(value);
    }, [name, value]);
    await page.waitForTimeout(700);
  };
  const mapShown = () => panel.locator(".svd-map").isVisible();

  await page.route(ADDRESS, async (route) => {
    await new Promise((done) => setTimeout(done, 2000));
    await route.continue();
  });
  await give("plan_name", options.name);
  found.loading = [await title(), await mapShown()];
  await panel.locator(".svd-map").waitFor();
  await page.unroute(ADDRESS);
  await page.route(ADDRESS, (route) => route.fulfill({ status: 500, body: "no JSON" }));
  await give("plan_name", options.name);
  found.failed = [await title(), await mapShown()];
  await page.unroute(ADDRESS);

  await give("plan_text", options.text);
  found.text = [await title(), await mapShown()];
  await page.evaluate(() => app.queuePrompt(0, 1));
  await panel.locator(".svd-map").waitFor({ timeout: 300000 });
  found.ran = [await title(), await panel.locator(".svd-totals").textContent()];
  await give("plan_text", "");
  await panel.locator(".svd-map").waitFor();
  found.listed = await title();

  await page.evaluate(() => {
    const of = (kind) => app.graph.nodes.find(({ comfyClass }) => comfyClass === kind);
    const [from, to] = [of("SparseVDiTLoadPlan"), of("SparseVDiTPatchModel")];
    const between = LiteGraph.createNode("Reroute");
    app.graph.add(between);
    from.connect(0, between, 0);
    between.connect(0, to, to.inputs.findIndex(({ name }) => name === "plan"));
  });
  await page.waitForTimeout(700);
  found.totals = await panel.locator(".svd-totals").textContent();
  const patch = await panelOf(page, "SparseVDiTPatchModel");
  await patch.locator(".svd-toggle").click();
  await patch.locator(".svd-map").waitFor();
  await patch.locator(".svd-tabs button").first().click();
  found.rerouted = await patch.locator(".svd-totals").textContent();
  return found;
};
