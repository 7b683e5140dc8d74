// Opens the help page of each node as a user does, and tells how tall it is in a narrow panel and what is in it.

module.exports = async (page, options, { open, picture }) => {
  await open(page, options);
  const pages = {};
  for (const kind of options.kinds) {
    await page.evaluate(show, kind);
    await page.locator('[data-testid="info-button"]').first().click();
    const help = page.locator(".node-help-content");
    await help.locator("h1").waitFor();
    await page.waitForTimeout(500);
    pages[kind] = await help.evaluate(measured, options.width);
    await picture(`${options.locale}_${kind}`);
  }
  return { pages };
};

async function show(kind) {
  app.graph.clear();
  const node = LiteGraph.createNode(kind);
  node.pos = [500, 200];
  app.graph.add(node);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.selectItems([node]);
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 500));
}

function measured(element, width) {
  element.style.width = `${width}px`;
  const found = {
    title: element.querySelector("h1").textContent,
    height: element.scrollHeight,
    across: element.scrollWidth,
    tables: element.querySelectorAll("table").length,
    links: [...element.querySelectorAll("a")].map(({ href, target }) => ({ href, target })),
  };
  return found;
}
