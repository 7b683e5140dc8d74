// How long the first paint of a map takes, and a move of the pointer over it.

module.exports = async (page, options, { open, load, panelOf, picture }) => {
  await open(page, options);
  await load(page, options.prompt);
  const panel = await panelOf(page, "SparseVDiTLoadPlan");
  await panel.locator(".svd-badge:not(:empty)").waitFor({ timeout: 60000 }); // the plan is there
  const found = await panel.evaluate(async (root) => {
    const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    let begin = performance.now();
    root.querySelector(".svd-toggle").click();
    const script = performance.now() - begin;
    await painted();
    const firstPaint = performance.now() - begin;
    await new Promise((done) => setTimeout(done, 500));
    const map = root.querySelector(".svd-map");
    const box = map.getBoundingClientRect();
    const times = [];
    const texts = [];
    for (let move = 0; move < 200; move++) {
      const place = { clientX: box.left + 40 + ((move * 37) % (box.width - 60)), clientY: box.top + 20 + ((move * 23) % (box.height - 30)) };
      begin = performance.now();
      map.dispatchEvent(new PointerEvent("pointermove", place));
      void root.offsetHeight; // layout counts too
      times.push(performance.now() - begin);
      texts.push(root.querySelector(".svd-hover").textContent);
      if (move % 10 === 0) await painted();
    }
    times.sort((a, b) => a - b);
    const told = texts.filter((text, move) => move && text !== texts[move - 1]).length;
    return { told, script, firstPaint, hoverMedian: times[100], hoverMost: times.at(-1) };
  });
  await picture("large");
  return found;
};
