// Layers and kinds that are kept dense, and their text `0, 3-5, skip`, as plans/search/kept_dense.py reads it.

export class Locks {
  constructor(layers = [], kinds = []) {
    this.layers = new Set(layers);
    this.kinds = new Set(kinds);
  }

  // Words that are neither a layer nor a name are left out: the server refuses the text and says why.
  static parse(text) {
    const found = new Locks();
    for (const word of String(text ?? "").split(",").map((part) => part.trim())) {
      const numbers = /^(\d{1,4})(?:\s*-\s*(\d{1,4}))?$/.exec(word);
      if (numbers) {
        const last = Number(numbers[2] ?? numbers[1]);
        for (let layer = Number(numbers[1]); layer <= last; layer++) found.layers.add(layer);
      } else if (/^[a-z_]+$/.test(word)) {
        found.kinds.add(word);
      }
    }
    return found;
  }

  get empty() {
    return !this.layers.size && !this.kinds.size;
  }

  holds(layer, kind) {
    return this.layers.has(layer) || this.kinds.has(kind);
  }

  toggled(set, entry) {
    const next = new Locks(this.layers, this.kinds);
    if (!next[set].delete(entry)) next[set].add(entry);
    return next;
  }

  toString() {
    const ranges = [];
    for (const layer of [...this.layers].sort((a, b) => a - b)) {
      const last = ranges.at(-1);
      if (last && last[1] === layer - 1) last[1] = layer;
      else ranges.push([layer, layer]);
    }
    const layers = ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`));
    return [...layers, ...[...this.kinds].sort()].join(", ");
  }
}
