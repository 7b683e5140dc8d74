// Mean density and expected speed-up of a plan with some heads kept dense. Densities and costs come from the server.

import { say } from "./words.js";

const NO_ATTENTION = 1e6; // as in plans/search/cost.py: every head is skipped

export function isLocked(view, locks, band, layer, head) {
  return locks.holds(layer, patternOf(view, band, layer, head).kind);
}

export function patternOf(view, band, layer, head) {
  return view.patterns[view.bands[band].heads[layer][head]];
}

// Of one band, or of all.
export function meanDensity(view, locks, band = null) {
  let sum = 0;
  let count = 0;
  for (const { heads } of band === null ? view.bands : [view.bands[band]]) {
    heads.forEach((row, layer) =>
      row.forEach((number) => {
        const { kind, density } = view.patterns[number];
        sum += locks.holds(layer, kind) ? 1 : density;
        count += 1;
      }),
    );
  }
  return sum / count;
}

// As HeadCosts.speedup: a layer that sparse attention makes no faster is left to the model's own.
function countedSpeedup(view, locks) {
  let sum = 0;
  let layers = 0;
  for (const { heads } of view.bands) {
    heads.forEach((row, layer) => {
      const costs = row.map((number) => {
        const { kind, cost } = view.patterns[number];
        return locks.holds(layer, kind) ? 1 : cost;
      });
      sum += Math.min(1, costs.reduce((a, b) => a + b, 0) / costs.length);
      layers += 1;
    });
  }
  return 1 / Math.max(sum / layers, 1e-9);
}

// What the plan tells, less what locked heads take back.
export function expectedSpeedup(view, locks) {
  const { speedup } = view.expected;
  if (locks.empty) return speedup;
  return (speedup * countedSpeedup(view, locks)) / countedSpeedup(view, { holds: () => false });
}

export function totalsText(view, locks) {
  const attention = expectedSpeedup(view, locks);
  const density = say("mean_density", { density: meanDensity(view, locks).toFixed(2) });
  if (attention >= NO_ATTENTION) return `${density}; ${say("no_attention")}`;
  const { share, times } = view.expected;
  const step = 1 / (1 - share + share / attention);
  const numbers = { attention: attention.toFixed(2), times, step: step.toFixed(2), size: view.grid.join("x") };
  return `${density}; ${say("expected", numbers)}`;
}

// How many heads of a band run each kind.
export function kindCounts(view, band) {
  const counts = {};
  for (const row of view.bands[band].heads) {
    for (const number of row) {
      const { kind } = view.patterns[number];
      counts[kind] = (counts[kind] ?? 0) + 1;
    }
  }
  return counts;
}
