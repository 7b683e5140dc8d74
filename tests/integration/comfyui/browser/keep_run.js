// Runs a workflow, reloads the page, looks at other workflows with nodes of the same numbers, and comes back.

const KIND = "SparseVDiTPatchModel";

module.exports = async (page, options, { open, loadNumbered, panelOf, picture }) => {
  const found = {};
  await open(page, options);
  await loadNumbered(page, options.prompt);
  let panel = await panelOf(page, KIND);
  await panel.locator(".svd-toggle").click();
  await page.evaluate(() => app.queuePrompt(0, 1));
  await panel.locator(".svd-tabs button").nth(1).waitFor({ timeout: 300000 });
  found.ran = await read(panel);
  await page.waitForTimeout(3000); // until the frontend has put the workflow aside

  await page.reload();
  await open(page, options);
  await page.waitForFunction(() => app.graph.nodes.length > 3, null, { timeout: 30000 });
  panel = await panelOf(page, KIND);
  await panel.locator(".svd-report:not(:empty)").waitFor();
  found.reloaded = await read(panel);
  await picture("reloaded");

  await panel.locator(".svd-tabs button").first().click(); // which an undo leaves as it is
  await page.evaluate(() => app.loadGraphData(app.graph.serialize(), false, false, app.extensionManager.workflow.activeWorkflow));
  panel = await panelOf(page, KIND);
  await panel.locator(".svd-report:not(:empty)").waitFor();
  found.turned = await panel.locator(".svd-tabs button").first().getAttribute("aria-pressed");
  await panel.locator(".svd-tabs button").nth(1).click();

  // another workflow is looked at while this one runs
  await page.evaluate(() => {
    app.graph.nodes.find(({ type }) => type === "KSampler").widgets.find(({ name }) => name === "seed").value = 77;
  });
  const ended = page.evaluate(
    () => new Promise((done) => app.api.addEventListener("sparse_vdit.ran", ({ detail }) => done(detail.report), { once: true })),
  );
  await page.evaluate(() => app.queuePrompt(0, 1));
  const number = await page.evaluate(() => app.graph.id);
  await loadNumbered(page, options.prompt);
  found.report = await ended;
  await page.waitForTimeout(1000);
  panel = await panelOf(page, KIND);
  found.other = [number === (await page.evaluate(() => app.graph.id)), ...Object.values(await read(panel)).slice(0, 2)];

  await page.evaluate(async (number) => {
    // which of a workflow's states has its number hangs on when the frontend looked at it
    const states = (one) => [one.activeState, one.initialState].filter((state) => state?.id === number);
    const back = app.extensionManager.workflow.openWorkflows.find((one) => states(one).length);
    await app.loadGraphData(states(back)[0], true, true, back);
  }, number);
  panel = await panelOf(page, KIND);
  await panel.locator(".svd-report:not(:empty)").waitFor();
  found.back = await read(panel);
  return found;
};

async function read(panel) {
  return {
    report: await panel.locator(".svd-report").textContent(),
    tabs: await panel.locator(".svd-tabs button").count(),
    said: await panel.locator(".svd-verdict").textContent(),
    steps: await panel.locator(".svd-step").count(),
    shown: await panel.locator(".svd-map").isVisible(),
  };
}
