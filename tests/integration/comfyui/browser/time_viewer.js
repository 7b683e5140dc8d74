// How long the first paint of a map takes, and a move of the pointer over it: by the clock, and without the time in
// which other programs had the processor.

module.exports = async (page, options, { open, load, panelOf, picture }) => {
  await open(page, options);
  await load(page, options.prompt);
  const panel = await panelOf(page, "SparseVDiTLoadPlan");
  await panel.locator(".svd-badge:not(:empty)").waitFor({ timeout: 60000 }); // the plan is there
  const found = await panel.evaluate(async (root) => {
    const begin = performance.now();
    root.querySelector(".svd-toggle").click();
    const script = performance.now() - begin;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return { script, firstPaint: performance.now() - begin };
  });
  await page.waitForTimeout(500);
  const { told, clock, marks } = await traced(page, () => panel.evaluate(move));
  const worked = clock.map((_, number) => {
    const [from, to] = ["from", "to"].map((name) => marks.find((mark) => mark.name === `svd-${name}-${number}`));
    return (to.tts - from.tts) / 1000; // of the thread's own clock, in microseconds
  });
  await picture("large");
  return { told, ...found, ...ofMoves("hover", clock), ...ofMoves("hoverWork", worked) };
};

async function move(root) {
  const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const map = root.querySelector(".svd-map");
  const box = map.getBoundingClientRect();
  const clock = [];
  const texts = [];
  for (let move = 0; move < 200; move++) {
    const place = {
      clientX: box.left + 40 + ((move * 37) % (box.width - 60)),
      clientY: box.top + 20 + ((move * 23) % (box.height - 30)),
    };
    performance.mark(`svd-from-${move}`);
    const begin = performance.now();
    map.dispatchEvent(new PointerEvent("pointermove", place));
    void root.offsetHeight; // layout counts too
    clock.push(performance.now() - begin);
    performance.mark(`svd-to-${move}`);
    texts.push(root.querySelector(".svd-hover").textContent);
    if (move % 10 === 0) await painted();
  }
  return { clock, told: texts.filter((text, at) => at && text !== texts[at - 1]).length };
}

// What `done` gives, and the marks that it has set, with the time that their thread has worked.
async function traced(page, done) {
  const session = await page.context().newCDPSession(page);
  const events = [];
  await session.send("HeapProfiler.collectGarbage"); // of loading the page, which would fall into some move
  session.on("Tracing.dataCollected", ({ value }) => events.push(...value));
  await session.send("Tracing.start", {
    transferMode: "ReportEvents",
    traceConfig: { includedCategories: ["blink.user_timing"], excludedCategories: ["*"] },
  });
  const result = await done();
  const complete = new Promise((heard) => session.once("Tracing.tracingComplete", heard));
  await session.send("Tracing.end");
  await complete;
  return { ...result, marks: events.filter(({ name }) => name.startsWith("svd-")) };
}

function ofMoves(name, times) {
  const sorted = [...times].sort((a, b) => a - b);
  return { [`${name}Median`]: sorted[sorted.length >> 1], [`${name}Most`]: sorted.at(-1) };
}
