// Loads workflows one after the other, and tells which of their nodes are unknown or have lost an input or a value.

module.exports = async (page, options, { open, picture }) => {
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
    await page.evaluate(() => {
      const boxes = app.graph.nodes.map(({ pos, size }) => [pos[0], pos[1] - 40, pos[0] + size[0], pos[1] + size[1]]);
      const [left, top] = [0, 1].map((side) => Math.min(...boxes.map((box) => box[side])));
      const [right, bottom] = [2, 3].map((side) => Math.max(...boxes.map((box) => box[side])));
      const scale = Math.min(1350 / (right - left), 1050 / (bottom - top));
      app.canvas.ds.scale = scale;
      app.canvas.ds.offset = [-left + 90 / scale, -top + 110 / scale];
      app.canvas.setDirty(true, true);
    });
    await page.waitForTimeout(1500);
    await page.keyboard.press("Escape");
    await picture(name);
  }
  return { loaded };
};
