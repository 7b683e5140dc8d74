// Opens the map of a plan on the node that loads it, looks at a head and finds nothing to change; keeps a layer and a kind
// dense on the patch node, reloads, runs, and reads what ran.

module.exports = async (page, options, { open, load, panelOf, picture }) => {
  const found = {};
  await open(page, options);
  await load(page, options.prompt);

  let panel = await panelOf(page, "SparseVDiTLoadPlan");
  await panel.locator(".svd-toggle").click();
  const map = panel.locator(".svd-map");
  await map.waitFor();
  await panel.locator(".svd-strip button").nth(options.band).click();
  const box = await map.boundingBox();
  await page.mouse.move(box.x + box.width - 20, box.y + box.height - 6);
  found.hovered = await panel.locator(".svd-hover").textContent();
  found.before = await panel.locator(".svd-totals").textContent();
  await picture("plan");

  await map.click({ position: { x: box.width - 20, y: box.height - 6 } });
  await panel.locator(".svd-picture img").waitFor();
  found.picture = await panel.locator(".svd-picture img").evaluate(async (shown) => {
    await shown.decode();
    return [shown.naturalWidth, shown.naturalHeight];
  });
  await page.waitForTimeout(500);
  await picture("head");

  await map.focus();
  for (const key of ["Home", "PageUp", "ArrowDown", "ArrowRight"]) await page.keyboard.press(key);
  found.byKeys = await panel.locator(".svd-hover").textContent();
  found.spoken = await panel.locator(".svd-hover").getAttribute("aria-live");
  await page.keyboard.press("l");
  await map.click({ position: { x: 10, y: 20 } }); // a layer's number
  found.looking = await changeable(panel);
  found.looked = await panel.locator(".svd-totals").textContent();

  panel = await panelOf(page, "SparseVDiTPatchModel");
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-map").waitFor();
  found.handedOn = await panel.locator(".svd-totals").textContent();
  await panel.locator(".svd-map").focus();
  for (const key of ["Home", "PageUp", "ArrowDown", "l"]) await page.keyboard.press(key);
  await panel.locator(".svd-legend button", { hasText: options.kind }).click();
  found.locked = await kept(page);
  found.after = await panel.locator(".svd-totals").textContent();
  found.legend = await panel.locator(".svd-legend").textContent();
  await picture("locked");
  await page.waitForTimeout(3000); // until the frontend has put the workflow aside

  await page.reload();
  await open(page, options);
  await page.waitForFunction(() => app.graph.nodes.length > 3, null, { timeout: 30000 });
  found.reloaded = await kept(page);
  panel = await panelOf(page, "SparseVDiTPatchModel");
  await panel.locator(".svd-map").waitFor(); // the map is open as it was
  found.reloadedTotals = await panel.locator(".svd-totals").textContent();
  await page.evaluate(() => app.queuePrompt(0, 1));
  await panel.locator(".svd-tabs button").nth(1).waitFor({ timeout: 300000 });
  found.verdict = await panel.locator(".svd-verdict").textContent();
  found.measured = await panel.locator(".svd-totals").textContent();
  found.report = await panel.locator(".svd-report").textContent();
  found.steps = await panel.locator(".svd-step").count();
  found.stepsSpoken = await panel.locator(".svd-steps").getAttribute("aria-label");
  await panel.locator(".svd-map").focus();
  await page.keyboard.press("ArrowDown");
  found.ran = await panel.locator(".svd-hover").textContent();
  await page.keyboard.press("l");
  found.changeable = await changeable(panel);
  found.keptAfterRun = await kept(page);
  found.stillRun = await panel.locator(".svd-tabs button").nth(1).getAttribute("aria-pressed");
  await page.waitForTimeout(500);
  await picture("ran");

  await panel.locator(".svd-tabs button").first().click();
  await panel.locator(".svd-actions button", { hasText: "Reset" }).click();
  found.reset = await kept(page);
  found.resetTotals = await panel.locator(".svd-totals").textContent();
  return found;
};

// Buttons that keep something dense.
function changeable(panel) {
  return panel.locator(".svd-legend button:enabled, .svd-actions button:visible").count();
}

function kept(page) {
  return page.evaluate(
    () => app.graph.nodes.find(({ comfyClass }) => comfyClass === "SparseVDiTPatchModel")
      .widgets.find(({ name }) => name === "keep_dense").value,
  );
}
