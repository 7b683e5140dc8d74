// What a run did, in words and shares, out of what the server sends when it has ended.

function share({ sparse = 0, ...dense }) {
  const calls = sparse + Object.values(dense).reduce((a, b) => a + b, 0);
  return calls ? sparse / calls : 0;
}

export function badge(ran) {
  const dense = Object.values(ran.dense).reduce((a, b) => a + b, 0);
  if (!ran.sparse) return "nothing ran sparse";
  const parts = [`${Math.round((100 * ran.sparse) / (ran.sparse + dense))} % of calls sparse`];
  parts.push(`density ${ran.mean_density.toFixed(2)}`);
  if (ran.speedup) parts.push(`attention ${ran.speedup.toFixed(1)}x as timed`);
  return parts.join(", ");
}

export function shareByLayer(ran, layers) {
  return Array.from({ length: layers }, (_, layer) => share(ran.layers[layer] ?? {}));
}

export function layerText(ran, layer) {
  const { sparse = 0, ...dense } = ran.layers[layer] ?? {};
  const why = Object.entries(dense).map(([reason, calls]) => `${calls} dense: ${reason}`);
  return [`its layer ran ${sparse} calls sparse`, ...why].join(", ");
}

// One for each forward: its noise level, and how much of it ran sparse.
export function stepTexts(ran) {
  return ran.forwards.map(({ sigma, sparse, dense }) => {
    const why = Object.entries(dense).map(([reason, calls]) => `${calls} dense: ${reason}`);
    const level = sigma === null ? "" : `noise ${sigma.toPrecision(3)}: `;
    return { text: level + [`${sparse} sparse`, ...why].join(", "), share: share({ sparse, ...dense }) };
  });
}
