"""Patterns to tile lists: what a backend sees.

A list is the key tiles that each query tile attends. Equal rows are stored once, whichever pattern they come from, so
that a dense head costs one row and all lists of a run stay small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .grid import TokenGrid
from .order import ORDERS
from .patterns import Pattern, Routed, Skip
from .tiling import KEY_TILE, QUERY_TILE, Tiling

PREFETCH = 2  # entries a kernel may read past the end of a row
MAX_KV_INDEX_BYTES = 32 << 20  # a run of known models needs a few MB


@dataclass(frozen=True)
class TileLists:
    """All lists of a run on one grid. Rows 0..query_tiles-1 are full query tiles, the last row the dense rows.

    Attributes:
        kv_indices: key tiles of all rows, (n + PREFETCH,) int16, int32 above 32,767 tiles. They begin with the full key
            tiles of the dense segment, which kernels append to every row.
        starts, kv_num_blocks: the part of `kv_indices` of each (list, row), int32 (lists, query_tiles + 1). A
            `kv_num_blocks` of -1 marks a skipped head, whose output is zero: all full query tiles have it, or none.
        orders: number of each list's token order in ORDERS, int32 (lists,).
        index: sequence position of each sorted token per order, int32 (orders, tokens).
        densities: computed query-key pairs / all pairs of each list.
        routed: number of key tiles of each list that `routing.py` fills at every call; its rows are empty here.
        derived: whether `routing.py` made these lists from checked ones; they are not checked again.

    Raises:
        ValueError: a list that reaches past the tables, names a tile that is not there, or leaves a query without any
            key. Tables on the CPU only, where they are made.
    """

    grid: TokenGrid
    query_tile: int
    key_tile: int
    kv_indices: Tensor
    starts: Tensor
    kv_num_blocks: Tensor
    orders: Tensor
    index: Tensor
    densities: tuple[float, ...]
    routed: dict[int, int] = field(default_factory=dict)
    derived: bool = False
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kv_indices.device.type == "cpu" and not self.derived:
            self._check()

    @property
    def segment_tiles(self) -> int:
        """Full key tiles of the dense segment; their numbers follow those of the video's."""
        return self.grid.tokens // self.key_tile - self.grid.video_tokens // self.key_tile

    def to(self, device: torch.device | str) -> TileLists:
        """The same lists on a device."""
        tensors = ("kv_indices", "starts", "kv_num_blocks", "orders", "index")
        moved = {name: getattr(self, name).to(device) for name in tensors}
        return TileLists(
            self.grid, self.query_tile, self.key_tile, **moved, densities=self.densities, routed=self.routed
        )

    def cached(self, key: object, make: Callable[[], object]) -> object:
        """The result of `make`, computed once per key, since copying a table to a device delays every call."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def slots(self, pair_lists: tuple[int, ...], heads: int) -> Tensor:
        """What each row of programs of a launch works on: (batch, head, list), int32 (batch * heads, 3), densest first,
        so that a launch does not end on its longest heads.

        Args:
            pair_lists: list of each (batch, head).
        """

        return self.cached((pair_lists, heads), lambda: self.new_slots(pair_lists, self.densities, heads))

    def new_slots(self, pair_lists: tuple[int, ...], densities: Sequence[float], heads: int) -> Tensor:
        """Slots of lists with the given densities, these or others on the same device."""
        order = sorted(range(len(pair_lists)), key=lambda pair: -densities[pair_lists[pair]])
        rows = [(*divmod(pair, heads), pair_lists[pair]) for pair in order]
        return torch.tensor(rows, dtype=torch.int32).to(self.kv_indices.device)

    def order_numbers(self) -> list[int]:
        """`orders` on the host."""
        return self.cached("orders", self.orders.tolist)

    def zero(self) -> Tensor:
        """One fp32 zero on the lists' device."""
        return self.cached("zero", lambda: torch.zeros(1, device=self.kv_indices.device))

    def skipped(self) -> list[bool]:
        """Whether each list is of a skipped head."""
        return self.cached("skipped", lambda: (self.kv_num_blocks < 0).any(1).tolist())

    def text_only(self) -> list[bool]:
        """Whether each list has a query without any key of the video."""
        ragged = self.grid.video_tokens % self.key_tile > 0
        return self.cached(
            "text_only",
            lambda: [
                bool(empty) and not ragged and number not in self.routed
                for number, empty in enumerate((self.kv_num_blocks == 0).any(1).tolist())
            ],
        )

    def rows(self, number: int) -> tuple[list[int], list[int]]:
        """`starts` and `kv_num_blocks` of a list on the host."""
        tables = self.starts, self.kv_num_blocks
        return self.cached(("rows", number), lambda: tuple(table[number].tolist() for table in tables))

    def _check(self) -> None:
        tiles, entries = self.grid.video_tokens // self.key_tile, len(self.kv_indices) - PREFETCH
        self._check_tables(len(self.densities), tiles, entries)
        first = self.segment_tiles
        if self.kv_indices[:first].tolist() != list(range(tiles, tiles + first)):
            raise ValueError(f"kv_indices of the tile lists must begin with the {first} full tiles past the video's")
        kv_indices = self.kv_indices[first:entries]
        if len(kv_indices) and (kv_indices.min() < 0 or kv_indices.max() >= tiles):
            worst = kv_indices.max() if kv_indices.max() >= tiles else kv_indices.min()
            raise ValueError(f"a tile list names key tile {int(worst)}, {self.grid} tokens have tiles 0 to {tiles - 1}")
        if (
            self.starts.numel()
            and ((self.starts < 0) | (self.starts.long() + self.kv_num_blocks.clamp_min(0) > entries)).any()
        ):
            raise ValueError(f"a tile list reaches past the {entries} entries of its table")
        if ((self.kv_num_blocks > 0) & (self.starts < first)).any():
            raise ValueError(f"a tile list begins among the first {first} entries of its table, which all lists share")
        skipped = self.kv_num_blocks == -1
        tiled, rest = skipped[:, :-1], skipped[:, -1]
        if (self.kv_num_blocks < -1).any() or (tiled.any(1) & ~tiled.all(1)).any() or (rest & ~tiled.all(1)).any():
            raise ValueError("kv_num_blocks of a tile list must be >= 0, or -1 in all query tiles of a skipped head")
        online = torch.zeros(len(self.kv_num_blocks), dtype=torch.bool)
        online[list(self.routed)] = True
        if tiles * self.key_tile == self.grid.tokens and (self.kv_num_blocks[~online] == 0).any():
            raise ValueError("a tile list is empty and there are no text keys: a query would attend nothing")

    def _check_tables(self, lists: int, tiles: int, entries: int) -> None:
        rows, tokens = self.grid.video_tokens // self.query_tile + 1, self.grid.tokens
        column = kv_index_dtype(self.grid, self.key_tile)
        expected = {
            "starts": ((lists, rows), torch.int32), "kv_num_blocks": ((lists, rows), torch.int32),
            "orders": ((lists,), torch.int32), "index": ((len(ORDERS), tokens), torch.int32),
            "kv_indices": ((max(0, entries) + PREFETCH,), column),
        }  # fmt: skip
        for name, wanted in expected.items():
            table = getattr(self, name)
            if (tuple(table.shape), table.dtype) != wanted:
                raise ValueError(f"{name} of the tile lists is {tuple(table.shape)} {table.dtype}, expected {wanted}")
        if lists and not 0 <= self.orders.min() <= self.orders.max() < len(ORDERS):
            raise ValueError(f"a tile list has token order {int(self.orders.max())}, there are 0 to {len(ORDERS) - 1}")
        if not (self.index.sort(1).values == torch.arange(tokens)).all():
            raise ValueError("index of the tile lists does not name every token of the sequence once")
        if (self.kv_indices[entries:] != 0).any():  # read ahead by the kernels
            raise ValueError("kv_indices of the tile lists must end on zeros")

    @property
    def bytes(self) -> int:
        """Memory of all tables."""
        tables = (self.kv_indices, self.starts, self.kv_num_blocks, self.orders, self.index)
        tables = (*tables, *(kept for kept in self._cache.values() if isinstance(kept, Tensor)))
        return sum(table.numel() * table.element_size() for table in tables)


@dataclass
class TileListBuilder:
    """Collects patterns for one grid and interns their lists."""

    grid: TokenGrid
    query_tile: int = QUERY_TILE
    key_tile: int = KEY_TILE
    _ids: dict[Pattern, int] = field(default_factory=dict)
    _rows: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _kv_indices: list[Tensor] = field(default_factory=list)
    _lists: list[tuple[list[int], list[int]]] = field(default_factory=list)
    _densities: list[float] = field(default_factory=list)
    _routed: dict[int, int] = field(default_factory=dict)
    _tilings: dict[str, Tiling] = field(default_factory=dict)
    _used: int = 0

    def __post_init__(self) -> None:
        tiling = self.tiling(ORDERS[0])
        self._kv_indices.append(torch.arange(tiling.key_tiles, self.grid.tokens // self.key_tile, dtype=torch.int32))
        self._used = len(self._kv_indices[0])

    def add(self, pattern: Pattern) -> int:
        """Number of the pattern's list; the same pattern gets the same number."""
        if pattern not in self._ids:
            self._ids[pattern] = len(self._lists)
            self._append(pattern)
        return self._ids[pattern]

    def tiling(self, order: str) -> Tiling:
        """The tiling all lists of an order share."""
        if order not in self._tilings:
            self._tilings[order] = Tiling(self.grid, order, self.query_tile, self.key_tile)
        return self._tilings[order]

    def build(self) -> TileLists:
        """The tables of all lists added so far, on the CPU."""
        tiling = self.tiling(ORDERS[0])
        starts, kv_num_blocks = zip(*self._lists, strict=True) if self._lists else ((), ())
        kv_indices = torch.cat([*self._kv_indices, torch.zeros(PREFETCH, dtype=torch.int32)])
        rows = tiling.query_tiles + 1
        return TileLists(
            grid=self.grid,
            query_tile=self.query_tile,
            key_tile=self.key_tile,
            kv_indices=kv_indices.to(kv_index_dtype(self.grid, self.key_tile)),
            starts=torch.tensor(starts, dtype=torch.int32).view(-1, rows),
            kv_num_blocks=torch.tensor(kv_num_blocks, dtype=torch.int32).view(-1, rows),
            orders=torch.tensor([ORDERS.index(pattern.order) for pattern in self._ids], dtype=torch.int32),
            index=torch.stack([self.tiling(order).index for order in ORDERS]).to(torch.int32),
            densities=tuple(self._densities),
            routed=dict(self._routed),
        )

    def _append(self, pattern: Pattern) -> None:
        tiling = self.tiling(pattern.order)
        if isinstance(pattern, Skip):
            text = bool(self.grid.text_tokens)
            start, count = self._intern(torch.ones(tiling.key_tiles, dtype=torch.bool)) if text else (0, -1)
            self._lists.append(([0] * tiling.query_tiles + [start], [-1] * tiling.query_tiles + [count]))
            self._densities.append(skip_density(tiling))
            return
        if isinstance(pattern, Routed):
            kept = pattern.kept_tiles(tiling)
            self._routed[len(self._lists)] = kept
            start, count = self._intern(torch.ones(tiling.key_tiles, dtype=torch.bool))
            self._lists.append(([0] * tiling.query_tiles + [start], [0] * tiling.query_tiles + [count]))
            self._densities.append(tile_density(tiling, kept * tiling.query_tiles))
            return
        mask = pattern.tile_mask(tiling)
        dense_row = torch.ones(1, tiling.key_tiles, dtype=torch.bool)
        parts = [self._intern(row) for row in torch.cat([mask, dense_row])]
        self._lists.append(([start for start, _ in parts], [count for _, count in parts]))
        self._densities.append(tile_density(tiling, mask.sum().item()))

    def _intern(self, row: Tensor) -> tuple[int, int]:
        key = hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest()  # the rows themselves may be gigabytes
        if key not in self._rows:
            kv_indices = row.nonzero().flatten().to(torch.int32)
            self._rows[key] = (self._used, len(kv_indices))
            self._kv_indices.append(kv_indices)
            self._used += len(kv_indices)
            if self._used * kv_index_dtype(self.grid, self.key_tile).itemsize > MAX_KV_INDEX_BYTES:
                raise ValueError(
                    f"tile lists of {len(self._ids)} patterns on {self.grid} tokens take over "
                    f"{MAX_KV_INDEX_BYTES >> 20} MB: use a plan with fewer patterns"
                )
        return self._rows[key]


def kv_index_dtype(grid: TokenGrid, key_tile: int) -> torch.dtype:
    """The smaller type of `TileLists.kv_indices` that can number a grid's key tiles."""
    return torch.int16 if grid.tokens // key_tile <= torch.iinfo(torch.int16).max else torch.int32


def tile_density(tiling: Tiling, kept_tiles: int) -> float:
    """Computed query-key pairs / all pairs, dense rows and the dense segment counted in, of so many tile pairs."""
    kept = kept_tiles * tiling.query_tile * tiling.key_tile
    segment = tiling.query_tiles * tiling.query_tile * tiling.dense_keys
    dense = tiling.dense_rows * tiling.grid.tokens
    return (kept + segment + dense) / tiling.grid.tokens**2


def skip_density(tiling: Tiling) -> float:
    """Density of a skipped head: only its dense rows are computed, and only with text."""
    return bool(tiling.grid.text_tokens) * tiling.dense_rows / tiling.grid.tokens


def pattern_density(pattern: Pattern, grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> float:
    """Density of one pattern on a grid, 0 for skip."""
    builder = TileListBuilder(grid, query_tile, key_tile)
    builder.add(pattern)
    return builder.build().densities[0]
