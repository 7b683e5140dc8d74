// Types into the frontend's search for nodes, letter by letter, and tells which nodes it lists first.

module.exports = async (page, options, { open, picture }) => {
  await open(page, options);
  const found = {};
  for (const word of options.words) {
    await page.evaluate(() => app.extensionManager.command.execute("Workspace.SearchBox.Toggle"));
    await page.waitForTimeout(700);
    await page.keyboard.type(word, { delay: 30 });
    await page.waitForTimeout(1500);
    found[word] = await page.evaluate(() => document.querySelector('[role="dialog"], .comfy-vue-node-search-container').innerText.split("\n"));
    await picture(word);
    await page.keyboard.press("Escape");
    await page.waitForTimeout(500);
  }
  return { found };
};
