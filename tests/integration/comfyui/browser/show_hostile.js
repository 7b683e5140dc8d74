// Shows a plan whose name and texts are HTML, and tells what became of it.

module.exports = async (page, options, { open, load, panelOf, picture }) => {
  await open(page, options);
  await load(page, options.prompt);
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
