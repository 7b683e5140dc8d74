// Reads the map as screen readers do, from the browser's tree of accessible things, and presses what it finds there.

module.exports = async (page, options, { open, load, panelOf, picture }) => {
  const found = {};
  await open(page, options);
  await load(page, options.prompt);
  const panel = await panelOf(page, "SparseVDiTPatchModel");
  const heard = () => tree(page, panel);
  found.closed = (await heard()).filter(({ role }) => role === "button");
  await panel.locator(".svd-toggle").click();
  await panel.locator(".svd-map").waitFor();
  await panel.locator(".svd-map").focus();
  for (const key of ["Home", "PageUp", "ArrowDown", "ArrowRight"]) {
    await page.keyboard.press(key);
    found[key] = (await heard()).filter(({ live }) => live).map(({ text }) => text);
  }
  found.open = await heard();
  await page.keyboard.press("l");
  await page.waitForTimeout(300);
  found.locked = await heard();
  await page.keyboard.press("l");
  await page.waitForTimeout(300);
  found.followed = await heard();
  await picture(`heard_${options.locale ?? "en"}`);
  return found;
};

// All named or live things of the panel in the order of the page, each with its state; `text` is all that is inside.
async function tree(page, panel) {
  const session = await page.context().newCDPSession(page);
  await session.send("Accessibility.enable");
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const { root } = await session.send("DOM.getDocument");
  const { nodeId } = await session.send("DOM.querySelector", { nodeId: root.nodeId, selector: '.svd-panel[data-kind="SparseVDiTPatchModel"]' });
  const { node } = await session.send("DOM.describeNode", { nodeId });
  await session.detach();
  const byId = new Map(nodes.map((one) => [one.nodeId, one]));
  const inside = (one) => (one.childIds ?? []).flatMap((id) => (byId.has(id) ? [byId.get(id), ...inside(byId.get(id))] : []));
  const textOf = (one) => inside(one).filter(({ role }) => role?.value === "StaticText").map(({ name }) => name.value).join(" ");
  const top = nodes.find(({ backendDOMNodeId }) => backendDOMNodeId === node.backendNodeId);
  return inside(top)
    .filter(({ ignored }) => !ignored)
    .map((one) => {
      const state = Object.fromEntries((one.properties ?? []).map(({ name, value }) => [name, value.value]));
      return {
        role: one.role.value,
        name: one.name?.value ?? "",
        described: state.roledescription,
        pressed: state.pressed,
        expanded: state.expanded,
        live: state.live === "polite" && state.busy !== true && inside(one).length ? state.live : undefined,
        text: textOf(one),
      };
    })
    .filter(({ name, live, role }) => role !== "StaticText" && role !== "InlineTextBox" && (name || live));
}
