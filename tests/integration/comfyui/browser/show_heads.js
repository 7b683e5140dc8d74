// Runs a workflow, and clicks on a head wherever there is a map of its plan: pictures, and words where something is missing.

const NODES = ["SparseVDiTSearchPlan", "SparseVDiTPatchModel"];

module.exports = async (page, options, { open, load, panelOf, picture }) => {
  const found = {};
  await open(page, options);
  await load(page, options.prompt);
  let panel = await panelOf(page, "SparseVDiTPatchModel");
  await panel.locator(".svd-toggle").click();
  await page.evaluate(() => app.queuePrompt(0, 1));
  await panel.locator(".svd-report:not(:empty)").waitFor({ timeout: 300000 });

  for (const kind of NODES) {
    if (!(await page.evaluate((kind) => app.graph.nodes.some(({ comfyClass }) => comfyClass === kind), kind))) continue;
    panel = await panelOf(page, kind);
    if ((await panel.locator(".svd-toggle").getAttribute("aria-expanded")) === "false") {
      await panel.locator(".svd-toggle").click();
    }
    const tabs = await panel.locator(".svd-tabs button").count();
    for (let tab = 0; tab < Math.max(1, tabs); tab++) {
      if (tabs) await panel.locator(".svd-tabs button").nth(tab).click();
      found[`${kind} ${tab}`] = await choose(page, panel, 2);
      await picture(`${kind}_${tab}`);
    }
  }
  panel = await panelOf(page, "SparseVDiTPatchModel");
  await panel.locator(".svd-strip button").first().click(); // another band has other pictures
  found.cleared = await panel.locator(".svd-picture").textContent();

  await page.route("**/sparse_vdit/head?*", (route) => {
    const url = new URL(route.request().url());
    url.searchParams.set("shown", "forgotten");
    url.searchParams.delete("name");
    return route.continue({ url: url.href });
  });
  found.forgotten = await choose(page, panel, 1);
  return found;
};

// Of the head at the cursor after some steps, chosen by Enter: words of the cell, of the picture and below it, its size.
async function choose(page, panel, steps) {
  await panel.locator(".svd-map").focus();
  for (const key of ["Home", "PageUp", ...Array(steps).fill("ArrowRight"), "Enter"]) await page.keyboard.press(key);
  await panel.locator(".svd-picture img, .svd-picture:not(:empty)").first().waitFor();
  await page.waitForTimeout(1500);
  const image = panel.locator(".svd-picture img");
  const there = (await image.count()) === 1;
  return {
    cell: await panel.locator(".svd-hover").textContent(),
    alt: there ? await image.getAttribute("alt") : null,
    width: there ? await image.evaluate(({ naturalWidth }) => naturalWidth) : 0,
    dark: there ? await image.evaluate(darkOnTheLeft) : null,
    words: await panel.locator(".svd-picture").textContent(),
    live: await panel.locator(".svd-picture").getAttribute("aria-live"),
  };
}

// Share of grey or black in the left half, where a map stands that was measured.
function darkOnTheLeft(image) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
  pen.drawImage(image, 0, 0);
  const { data } = pen.getImageData(0, 0, Math.floor(width / 2), height);
  let dark = 0;
  for (let at = 0; at < data.length; at += 4) dark += data[at] < 160;
  return dark / (data.length / 4);
}
