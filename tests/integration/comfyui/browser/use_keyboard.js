// Presses legend, noise level and Reset by Enter, and keys that are the page's own on the map.

module.exports = async (page, options, { open, load, panelOf }) => {
  let queued = 0;
  await page.route("**/prompt", (route) => {
    queued += route.request().method() === "POST";
    return route.fulfill({ json: { prompt_id: "none", number: 0, node_errors: {} } });
  });
  await open(page, options);
  await load(page, options.prompt);
  const panel = await panelOf(page, "SparseVDiTPatchModel");
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-map").waitFor();
  const focused = () => page.evaluate(() => document.activeElement.ariaLabel ?? "nothing");
  const press = async (button) => {
    await button.focus();
    await page.keyboard.press("Enter");
    await page.waitForTimeout(300);
    return focused();
  };
  const found = { legend: await press(panel.locator(".svd-legend button", { hasText: options.kind })) };
  found.band = await press(panel.locator(".svd-strip button").nth(1));
  found.bandPressed = await panel.locator(".svd-strip button").nth(1).getAttribute("aria-pressed");
  found.reset = await press(panel.locator(".svd-actions button", { hasText: "Reset" }));

  const before = await panel.locator(".svd-hover").textContent();
  for (const key of ["Alt+ArrowDown", "Control+l", "Meta+ArrowRight"]) await page.keyboard.press(key);
  found.unmoved = before === (await panel.locator(".svd-hover").textContent());
  await page.keyboard.press("Control+Enter");
  await page.waitForTimeout(1500);
  found.queued = queued;
  return found;
};
