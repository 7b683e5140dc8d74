"""The contract of a call: bad input has a name before anything is launched; what stays the same for every size."""

import dataclasses
import importlib
import importlib.util

import pytest
import torch
from sparse_vdit.kernels.attention import choose_backend, sparse_attention
from sparse_vdit.kernels.backends import triton_backend
from sparse_vdit.kernels.backends.launcher import KERNELS
from sparse_vdit.kernels.backends.triton_backend import install_line
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder, TileLists
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, Routed, Skip
from sparse_vdit.kernels.routing import routed_call
from sparse_vdit.kernels.tiling import Tiling

GRID = TokenGrid(5, 7, 11, prefix=3)


def make_lists(grid: TokenGrid = GRID, patterns: tuple = (Dense(), Diagonal(0))) -> TileLists:
    builder = TileListBuilder(grid)
    for pattern in patterns:
        builder.add(pattern)
    return builder.build()


def qkv(grid: TokenGrid = GRID, heads: int = 2, head_dim: int = 64, dtype: torch.dtype = torch.float16) -> list:
    return [torch.randn(2, grid.tokens, heads, head_dim).to(dtype) for _ in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"k": c["k"][:, :-1]}, r"expected one \(B, S, H, D\)"),
        (lambda c: {name: c[name][0] for name in "qkv"}, r"expected one \(B, S, H, D\)"),
        (lambda c: {name: c[name][:0] for name in "qkv"}, "none of them 0"),
        (lambda c: {"v": c["v"].float()}, "torch.float16, torch.float16, torch.float32"),
        (lambda c: {name: c[name].to(torch.int8) for name in "qkv"}, "one floating-point dtype"),
        (lambda c: {name: c[name].to(torch.float8_e4m3fn) for name in "qkv"}, "of 16, 32 or 64 bits"),
        (lambda c: {name: c[name].transpose(1, 2) for name in "qkv"}, r"2 tokens, .*; is q \(B, H, S, D\)\?"),
        (lambda c: {"lists": TileListBuilder(GRID)}, r"lists is a TileListBuilder, expected what .*build\(\) gives"),
        (lambda c: {"head_lists": (0.0, 1.0)}, r"head_lists \[0.0, 1.0\] do not give"),
        (lambda c: {"head_lists": (True, False)}, r"head_lists \[True, False\] do not give"),
        (lambda c: {"key_bias": [0, 0, 0]}, "key_bias is a list, expected a tensor"),
        (lambda c: {"q": c["q"].to("meta")}, "expected one device"),
        (lambda c: {name: c[name][:, 1:] for name in "qkv"}, "387 tokens, the tile lists are for"),
        (lambda c: {"head_lists": (0, 2)}, r"head_lists \[0, 2\] do not give one of 2 lists"),
        (lambda c: {"head_lists": (0, -1)}, "do not give one of 2 lists"),
        (lambda c: {"head_lists": (0, 1, 0)}, "to each of 2 heads"),
        (lambda c: {"head_lists": ()}, "to each of 2 heads"),
        (lambda c: {"key_bias": torch.zeros(2, 4)}, r"key_bias is \(2, 4\) on cpu, expected \(2, 3\)"),
        (lambda c: {"key_bias": torch.zeros(2, 3, dtype=torch.bool)}, "bool mask"),
        (lambda c: {"key_bias": torch.zeros(2, 3, dtype=torch.int64)}, "key_bias is torch.int64, expected floats"),
    ],
)
def test_calls_outside_the_contract(change: object, message: str) -> None:
    call = dict(zip("qkv", qkv(), strict=True)) | {"lists": make_lists(), "head_lists": (0, 1)}
    with pytest.raises(ValueError, match=message):
        AttentionCall(**{**call, **change(call)})


def test_one_number_is_not_head_lists() -> None:
    with pytest.raises(ValueError, match="head_lists is 0, expected the number of a list for each head"):
        sparse_attention(*qkv(), make_lists(), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_indices": 6}, "names key tile 6, 5x7x11 .* have tiles 0 to 5"),
        ({"kv_indices": -1}, "names key tile -1"),
        ({"starts": 10_000}, "reaches past"),
        ({"kv_num_blocks": 10_000}, "reaches past"),
        ({"kv_num_blocks": -2}, "kv_num_blocks of a tile list"),
        ({"kv_num_blocks": -1}, "kv_num_blocks of a tile list"),
        ({"starts": 2**31 - 1, "kv_num_blocks": 10}, "reaches past"),
        ({"orders": 2}, "token order 2, there are 0 to 1"),
        ({"index": 10**6}, "does not name every token"),
    ],
    ids=str,
)
def test_tile_lists_out_of_range(change: dict, message: str) -> None:
    lists = make_lists()
    tables = {name: getattr(lists, name).clone() for name in change}
    for name, value in change.items():
        tables[name].view(-1)[1] = value
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(lists, **tables)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("starts", lambda x: x.long(), "starts of the tile lists is"),
        ("kv_num_blocks", lambda x: x[:, :-1], "kv_num_blocks of the tile lists is"),
        ("index", lambda x: x[:, :-1].contiguous(), "index of the tile lists is"),
        ("kv_indices", lambda x: x.int(), "kv_indices of the tile lists is"),
        ("kv_indices", lambda x: torch.cat([x[:-1], x.new_tensor([3])]), "must end on zeros"),
        ("densities", lambda x: (*x, 0.5), "starts of the tile lists is"),
    ],
)
def test_tile_lists_of_the_wrong_form(name: str, change: object, message: str) -> None:
    lists = make_lists()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(lists, **{name: change(getattr(lists, name))})


def test_an_empty_list_needs_text_keys() -> None:
    grid = TokenGrid(3, 8, 16)
    lists = make_lists(grid)
    with pytest.raises(ValueError, match="a query would attend nothing"):
        dataclasses.replace(lists, kv_num_blocks=torch.zeros_like(lists.kv_num_blocks))
    assert make_lists(grid, (Skip(), Dense())).kv_num_blocks[0].tolist() == [-1] * 4


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("head_dim", "dtype", "message"),
    [(80, torch.float16, "head_dim 80"), (64, torch.float32, "dtype float32"), (64, torch.float64, "dtype float64")],
)
def test_what_triton_does_not_take_is_said(head_dim: int, dtype: torch.dtype, message: str) -> None:
    q, k, v = qkv(head_dim=head_dim, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        sparse_attention(q, k, v, make_lists(), (0, 1), backend="triton")
    assert choose_backend(AttentionCall(q, k, v, make_lists(), (0, 1)))[0] == "torch"


def test_without_a_gpu_no_other_dtype_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor Triton, which would not help there either."""
    monkeypatch.setattr(triton_backend, "INTERPRETED", False)
    call = AttentionCall(*qkv(dtype=torch.float32), make_lists(), (0, 1))
    for found in (True, False):
        monkeypatch.setattr(triton_backend, "TRITON_FOUND", found)
        assert triton_backend.refusal(call) == "device cpu has no Triton kernels"


def test_slots_are_made_once_and_densest_first() -> None:
    lists = make_lists(patterns=(Diagonal(0), Dense()))
    slots = lists.slots((0, 1, 1, 0), heads=2)
    assert slots.tolist() == [[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert lists.slots((0, 1, 1, 0), heads=2) is slots


class _Recorder:
    """Stands for a Triton kernel, remembers what Triton would make binaries of its own for, and runs it."""

    def __init__(self, kernel: object):
        self.kernel, self.binaries = kernel, set()

    def __getitem__(self, grid: tuple) -> object:
        def launch(*args: object, **options: object) -> None:
            # as the JIT sees its parameters; the interpreted kernel keeps the function alone
            from triton.runtime.jit import JITFunction

            parameters = JITFunction(self.kernel.fn, do_not_specialize=self.kernel.kwargs["do_not_specialize"]).params
            key = []
            for parameter, value in zip(parameters, args, strict=False):
                if isinstance(value, torch.Tensor):
                    key.append((parameter.name, value.dtype, value.data_ptr() % 16 == 0))
                elif isinstance(value, int) and not parameter.do_not_specialize:
                    key.append((parameter.name, value == 1, value % 16 == 0))
            self.binaries.add((*key, *sorted(options.items())))

        return launch


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize("int8", [False, True])
def test_ten_sizes_share_one_binary(int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten grids, with and without text and a bias for it, one or two batches, both layouts, routed heads: whatever
    Triton distinguishes stays the same for each kernel and each of its constants."""
    recorders = {}
    for name, (module, function) in KERNELS.items():
        module = importlib.import_module(f"sparse_vdit.kernels.backends.triton_kernels.{module}")
        recorders[name] = _Recorder(getattr(module, function))
        monkeypatch.setattr(module, function, recorders[name])
    for size in range(10):
        grid = TokenGrid(1 + size, 7 + 3 * size, 9 + 2 * size, prefix=size % 3, suffix=5 * (size % 2))
        lists = make_lists(grid, (Diagonal(0), Dense()) if size < 2 else (Routed(0.3), Dense()))
        for by_head in (False, True):
            batch = 1 + size % 2
            shape = (batch, 2, grid.tokens, 64) if by_head else (batch, grid.tokens, 2, 64)
            q = torch.zeros(shape, dtype=torch.float16)
            q = q.transpose(1, 2) if by_head else q
            bias = torch.zeros(batch, grid.text_tokens) if size % 3 and grid.text_tokens else None
            sparse_attention(q, q, q, lists, (0, 1), "triton", key_bias=bias, int8=int8)
    assert len(recorders["attention"].binaries) == 1
    assert len(recorders["quantize_tiles"].binaries) == int8
    assert len(recorders["tile_means"].binaries) == 2  # of query tiles and of key tiles
    assert len(recorders["select_tiles"].binaries) == 1


def test_text_that_a_bias_may_hide_is_not_all_that_a_query_attends() -> None:
    grid = TokenGrid(4, 8, 16, suffix=3)
    mask = torch.zeros(4, 8, dtype=torch.bool)
    lists = make_lists(grid, (Dense(), _Masked(mask)))
    q = torch.zeros(1, grid.tokens, 2, 64)
    bias = torch.full((1, 3), -torch.inf)
    AttentionCall(q, q, q, lists, (1, 1))
    AttentionCall(q, q, q, lists, (0, 0), bias)
    with pytest.raises(ValueError, match="list 1 has queries that attend text alone, which key_bias may hide"):
        AttentionCall(q, q, q, lists, (0, 1), bias)


@dataclasses.dataclass(frozen=True)
class _Masked(Pattern):
    """Any tiles at all."""

    kind = "masked"
    mask: torch.Tensor = dataclasses.field(default=None, compare=False)

    def tile_mask(self, tiling: Tiling) -> torch.Tensor:
        return self.mask


def test_every_torch_of_the_last_years_has_its_triton() -> None:
    assert {("2", str(minor)) for minor in range(6, 14)} == {*triton_backend.TRITON_OF_TORCH}


def test_the_install_line_belongs_to_this_torch() -> None:
    assert install_line("win32", "2.9.1+cu130").endswith('-m pip install "triton-windows==3.5.*"')
    assert install_line("linux", "9.9").endswith("-m pip install triton")


def test_routing_takes_the_best_tiles() -> None:
    """A query tile that looks at one place finds the key tile there first, whatever the rest is."""
    grid = TokenGrid(4, 16, 16)
    lists = make_lists(grid, (Routed(0.2, order="spatial"), MultiDiagonal(0.1, 0.1)))
    torch.manual_seed(0)
    q, k, v = (0.1 * torch.randn(1, grid.tokens, 1, 64) for _ in range(3))
    index = lists.index[0].long()
    q[0, index[:128]], k[0, index[320:384]] = 1.0, 1.0  # query tile 0, key tile 5
    call = AttentionCall(q, k, v, lists, (0,))
    assert lists.routed[0] == 3  # a fifth of 16 tiles
    routed = routed_call(call)
    starts, counts = (table[routed.head_lists[0]] for table in (routed.lists.starts, routed.lists.kv_num_blocks))
    assert counts.tolist() == [3] * 8 + [16]
    chosen = torch.stack([routed.lists.kv_indices[start : start + 3] for start in starts[:-1]])
    assert 5 in chosen[0]
    assert (chosen.diff(dim=-1) > 0).all()
    assert routed.lists.densities == (*lists.densities, lists.densities[0])
    assert routed_call(dataclasses.replace(call, head_lists=(1,))).lists is lists


def test_routed_share_out_of_range() -> None:
    for share in (0, -0.1, 1.5, "much"):
        with pytest.raises(ValueError, match="share is"):
            Routed(share)
    assert Routed(1.0).kept_tiles(Routed().tiling(GRID)) == 6
    assert Routed(1e-9).kept_tiles(Routed().tiling(GRID)) == 1
    with pytest.raises(ValueError, match="chosen from queries and keys"):
        Routed().tile_mask(Routed().tiling(GRID))
