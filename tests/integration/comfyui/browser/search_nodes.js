// Types words into the frontend's search for nodes, and tells which nodes of the pack it lists, in its order.

module.exports = async (page, options, { open, picture }) => {
  await open(page, options);
  const listed = {};
  for (const word of options.words) {
    await page.evaluate(() => app.extensionManager.command.execute("Workspace.SearchBox.Toggle"));
    await page.waitForTimeout(700);
    await page.keyboard.type(word, { delay: 30 });
    await page.waitForTimeout(1500);
    listed[word] = await page.evaluate((names) => {
      const lines = document.querySelector('[role="dialog"], .comfy-vue-node-search-container').innerText.split("\n");
      return lines.filter((line) => names.includes(line));
    }, options.names);
    await picture(word);
    await page.keyboard.press("Escape");
    await page.waitForTimeout(500);
  }
  return { listed };
};
