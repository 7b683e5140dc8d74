// Shows a plan whose name and texts are HTML, and tells what became of it.

module.exports = async (page, options, { open, panelOf, picture }) => {
  await open(page, options);
  await page.evaluate(async (prompt) => {
    await app.loadApiJson(prompt, "test");
  }, options.prompt);
  await page.waitForTimeout(1500);
  const panel = await panelOf(page, "SparseVDiTLoadPlan");
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-map").waitFor();
  await page.waitForTimeout(1000);
  await picture("hostile");
  return panel.evaluate((root) => ({
    title: root.querySelector(".svd-title").textContent,
    hit: window.HIT ?? null,
    images: root.querySelectorAll("img, script, b").length,
  }));
};
