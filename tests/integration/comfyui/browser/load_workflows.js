// Loads workflows one after the other, and tells which of their nodes are unknown or have lost an input or a value.

module.exports = async (page, options, { open, showAll, picture }) => {
  await open(page, options);
  const loaded = {};
  for (const [name, workflow] of Object.entries(options.workflows)) {
    loaded[name] = await page.evaluate(async (workflow) => {
      await app.loadGraphData(workflow);
      await new Promise((done) => setTimeout(done, 1500));
      const nodes = app.graph.nodes;
      const { output } = await app.graphToPrompt();
      return {
        missing: nodes.filter(({ type }) => !LiteGraph.registered_node_types[type]).map(({ type }) => type),
        nodes: nodes.length,
        panels: nodes.filter(({ widgets }) => widgets?.some(({ name }) => name === "plan_view")).length,
        prompt: output,
      };
    }, workflow);
    await page.keyboard.press("Escape"); // what asks for models that are not here
    await showAll(page);
    await page.waitForTimeout(1500);
    await page.keyboard.press("Escape");
    await picture(name);
  }
  return { loaded };
};
