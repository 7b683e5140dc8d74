// Loads a workflow whose model files are not here, and tells what the frontend offers for them.

module.exports = async (page, options, { open, picture }) => {
  await open(page, options);
  await page.evaluate((workflow) => app.loadGraphData(workflow), options.workflow);
  await page.getByRole("button", { name: "View details" }).click({ timeout: 60000 });
  await page.waitForTimeout(1500);
  await picture("missing");
  return { text: await page.evaluate(() => document.body.innerText) };
};
