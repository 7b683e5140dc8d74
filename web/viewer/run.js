// What a run did, in words and shares, out of what the server sends when it has ended.

import { say } from "./words.js";

function share({ sparse = 0, ...dense }) {
  const calls = sparse + Object.values(dense).reduce((a, b) => a + b, 0);
  return calls ? sparse / calls : 0;
}

// Numbers of the run alone: what was expected of its plan is told where the plan is.
export function measuredText(ran) {
  const dense = Object.values(ran.dense).reduce((a, b) => a + b, 0);
  if (!ran.sparse) return say("nothing_sparse");
  const parts = [say("calls_sparse", { percent: Math.round((100 * ran.sparse) / (ran.sparse + dense)) })];
  parts.push(say("density_ran", { density: ran.mean_density.toFixed(2) }));
  parts.push(ran.speedup ? say("as_timed", { times: ran.speedup.toFixed(2) }) : say("not_timed"));
  return parts.join(", ");
}

export function shareByLayer(ran, layers) {
  return Array.from({ length: layers }, (_, layer) => share(ran.layers[layer] ?? {}));
}

export function layerText(ran, layer) {
  const { sparse = 0, ...dense } = ran.layers[layer] ?? {};
  return [say("layer_ran", { sparse }), ...reasons(dense)].join(", ");
}

// One for each forward: its noise level, and how much of it ran sparse.
export function stepTexts(ran) {
  return ran.forwards.map(({ sigma, sparse, dense }) => {
    const level = sigma === null ? "" : say("noise_level", { level: sigma.toPrecision(3) });
    const text = level + [say("step_sparse", { calls: sparse }), ...reasons(dense)].join(", ");
    return { text, share: share({ sparse, ...dense }) };
  });
}

function reasons(dense) {
  return Object.entries(dense).map(([reason, calls]) => say("dense_because", { calls, reason }));
}
