"""Patterns to tile lists: what a backend sees.

A list is the key tiles that each query tile attends. Equal rows are stored once, whichever pattern they come from, so
that a dense head costs one row and all lists of a run stay small.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .grid import TokenGrid
from .order import ORDERS
from .patterns import Pattern, Routed, Skip
from .patterns.window import MAX_PAIRS
from .tiling import KEY_TILE, QUERY_TILE, Tiling

PREFETCH = 2  # entries a kernel may read past the end of a row
MAX_KV_INDEX_BYTES = 32 << 20  # a run of known models needs a few MB
MAX_TILE_PAIRS = 3 << 26  # of all patterns together, a second or two; 100 patterns at 720p of 81 frames are 2**26
MAX_RUN_TILE_PAIRS = 2 * MAX_TILE_PAIRS  # before a video is generated: 29 patterns at 1080p of 161 frames
_KEY = secrets.token_bytes(16)  # so that nobody can make rows that are taken for one another


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
    _lists: list[Tensor] = field(default_factory=list)
    _densities: list[float] = field(default_factory=list)
    _routed: dict[int, int] = field(default_factory=dict)
    _tilings: dict[str, Tiling] = field(default_factory=dict)
    _used: int = 0

    def __post_init__(self) -> None:
        tiling = self.tiling(ORDERS[0])
        dtype = kv_index_dtype(self.grid, self.key_tile)
        self._kv_indices.append(torch.arange(tiling.key_tiles, self.grid.tokens // self.key_tile, dtype=dtype))
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
        rows = tiling.query_tiles + 1
        lists = torch.cat([torch.zeros(2, 0, dtype=torch.int32), *self._lists], 1).view(2, -1, rows)
        kv_indices = torch.cat([*self._kv_indices, torch.zeros(PREFETCH, dtype=self._kv_indices[0].dtype)])
        return TileLists(
            grid=self.grid,
            query_tile=self.query_tile,
            key_tile=self.key_tile,
            kv_indices=kv_indices,
            starts=lists[0].clone(),
            kv_num_blocks=lists[1].clone(),  # a view would begin where kernels cannot read 16 bytes at once
            orders=torch.tensor([ORDERS.index(pattern.order) for pattern in self._ids], dtype=torch.int32),
            index=torch.stack([self.tiling(order).index for order in ORDERS]).to(torch.int32),
            densities=tuple(self._densities),
            routed=dict(self._routed),
        )

    def _append(self, pattern: Pattern) -> None:
        tiling = self.tiling(pattern.order)
        if isinstance(pattern, Skip):
            self._append_uniform(-1, bool(self.grid.text_tokens))
            self._densities.append(_density(pattern, tiling))
            return
        if isinstance(pattern, Routed):
            self._routed[len(self._lists)] = pattern.kept_tiles(tiling)
            self._append_uniform(0, True)
            self._densities.append(_density(pattern, tiling))
            return
        mask = pattern.tile_mask(tiling)
        everything = torch.ones(1, tiling.key_tiles, dtype=torch.bool)
        parts = (*mask.split(max(1, MAX_PAIRS // max(1, tiling.key_tiles))), everything)
        self._lists.append(torch.cat([self._intern(part) for part in parts], 1))
        self._densities.append(tile_density(tiling, int(mask.count_nonzero())))

    def _append_uniform(self, count: int, rest: bool) -> None:
        """A list with this count for all query tiles; its dense rows attend everything, or have that count too."""
        tiling = self.tiling(ORDERS[0])
        row = torch.tensor([[0], [count]], dtype=torch.int32)
        last = self._intern(torch.ones(1, tiling.key_tiles, dtype=torch.bool)) if rest else row
        self._lists.append(torch.cat([row.expand(2, tiling.query_tiles), last], 1))

    def _intern(self, rows: Tensor) -> Tensor:
        """Starts and counts of rows (n, key_tiles) in `kv_indices`, int32 (2, n); those that are new are added."""
        digests, new, places = _digests(rows), {}, self._rows
        for number, digest in enumerate(digests):
            if digest not in places and digest not in new:
                new[digest] = number
        added = rows[list(new.values())]
        row, column = added.nonzero().unbind(1)
        counts = row.bincount(minlength=len(new))
        ends = self._used + counts.cumsum(0)
        self._check_size(self._used + len(column))
        places.update(zip(new, zip((ends - counts).tolist(), counts.tolist(), strict=True), strict=True))
        self._kv_indices.append(column.to(kv_index_dtype(self.grid, self.key_tile)))
        self._used += len(column)
        return torch.tensor([places[digest] for digest in digests], dtype=torch.int32).view(-1, 2).T

    def _check_size(self, entries: int) -> None:
        if entries * kv_index_dtype(self.grid, self.key_tile).itemsize > MAX_KV_INDEX_BYTES:
            raise ValueError(
                f"tile lists of {len(self._ids)} patterns on {self.grid} tokens take over "
                f"{MAX_KV_INDEX_BYTES >> 20} MB: use a plan with fewer patterns"
            )


def _digests(rows: Tensor) -> list[bytes]:
    """What tells rows apart that are equal by bits, which themselves may be gigabytes."""
    wide = torch.nn.functional.pad(rows, (0, 8 - rows.shape[1] % 8)).view(torch.int64)  # eight entries of 0 or 1 byte
    bits = wide.mul(0x0102040810204080).bitwise_right_shift_(56).to(torch.uint8)
    content, width = bits.numpy().tobytes(), bits.shape[1]
    parts = (content[at : at + width] for at in range(0, len(content), width))
    return [hashlib.blake2b(part, digest_size=16, key=_KEY).digest() for part in parts]


class TooManyPatterns(ValueError):  # noqa: N818 - there are too many
    """Tile lists of these patterns would take too long on so large a video."""


def check_work(
    patterns: Collection[Pattern],
    tokens: int,
    query_tile: int = QUERY_TILE,
    key_tile: int = KEY_TILE,
    limit: int = MAX_TILE_PAIRS,
) -> None:
    """Raise TooManyPatterns where all patterns together have more pairs of tiles to look at than `limit`."""
    rules = sum(pattern.rules for pattern in patterns)
    if rules * (tokens // query_tile) * (tokens // key_tile) > limit:
        parts = f" with {rules} parts" if rules > len(patterns) else ""
        raise TooManyPatterns(f"{len(patterns)} patterns{parts} are too many for {tokens} tokens, use fewer patterns")


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


def pattern_densities(
    patterns: Sequence[Pattern], grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE
) -> list[float]:
    """Density of each pattern on a grid, 0 for skip.

    Raises:
        ValueError: too many patterns for so large a grid.
    """
    check_work(patterns, grid.video_tokens, query_tile, key_tile)
    tilings = {order: Tiling(grid, order, query_tile, key_tile) for order in ORDERS}
    return [_density(pattern, tilings[pattern.order]) for pattern in patterns]


def _density(pattern: Pattern, tiling: Tiling) -> float:
    if isinstance(pattern, Skip):
        return skip_density(tiling)
    if isinstance(pattern, Routed):
        return tile_density(tiling, pattern.kept_tiles(tiling) * tiling.query_tiles)
    return tile_density(tiling, int(pattern.tile_mask(tiling).count_nonzero()))


def pattern_density(pattern: Pattern, grid: TokenGrid, query_tile: int = QUERY_TILE, key_tile: int = KEY_TILE) -> float:
    """The same of one pattern."""
    return pattern_densities([pattern], grid, query_tile, key_tile)[0]
