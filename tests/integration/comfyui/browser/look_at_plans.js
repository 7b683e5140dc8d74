// Looks at the maps of plans one after the other where they are loaded; then runs the last one, and looks at it again.

module.exports = async (page, options, { open, load, panelOf, picture }) => {
  const found = { plans: {} };
  await open(page, options);
  await load(page, options.prompt);
  let panel = await panelOf(page, "SparseVDiTLoadPlan");
  await panel.locator(".svd-toggle").click();
  for (const name of options.plans) {
    await page.evaluate((name) => {
      const node = app.graph.nodes.find(({ comfyClass }) => comfyClass === "SparseVDiTLoadPlan");
      const widget = node.widgets.find((one) => one.name === "plan_name");
      widget.value = name;
      widget.callback(name);
    }, name);
    await panel.locator(".svd-title", { hasText: name }).waitFor({ timeout: 60000 });
    await page.waitForTimeout(700);
    found.plans[name] = await read(panel);
    await picture(name.replaceAll("/", "_"));
  }
  await page.evaluate(() => app.queuePrompt(0, 1));
  panel = await panelOf(page, "SparseVDiTPatchModel");
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-tabs button").nth(1).waitFor({ timeout: 300000 });
  await page.waitForTimeout(700);
  found.lastRun = await read(panel);
  await picture("last_run");
  await panel.locator(".svd-tabs button").first().click();
  found.plan = await read(panel);
  await picture("plan_after_run");
  await panel.locator(".svd-map").focus();
  await page.keyboard.press("Enter");
  await page.waitForTimeout(2000);
  found.head = await panel.locator(".svd-picture").textContent();
  found.images = await panel.locator(".svd-picture img").count();
  await picture("head");
  return found;
};

async function read(panel) {
  const none = panel.locator(".svd-none");
  return {
    says: (await none.isVisible()) ? await none.textContent() : "",
    map: await panel.locator(".svd-map").isVisible(),
    totals: await panel.locator(".svd-totals").textContent(),
  };
}
