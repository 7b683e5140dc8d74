"""Backends against the masked-softmax oracle: odd grids, text around, every pattern, strided and batched inputs."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from covering import covering
from sparse_vdit.kernels.attention import choose_backend, sparse_attention
from sparse_vdit.kernels.backends import torch_backend, triton_backend
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.oracle import masked_attention, pattern_attention
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Skip, VerticalStripe
from tolerances import RELATIVE_L2, assert_close

PATTERNS = (
    Dense(),
    Skip(),
    Diagonal(0),
    Diagonal(1, 0.2, 0.3),
    MultiDiagonal(0.1, 0.1),
    MultiDiagonal(0.0, None),
    VerticalStripe(),
    VerticalStripe(((0.0, 1.0, 0.3, 0.4, 0.0, 1.0),), order="spatiotemporal"),
)

GRIDS = {
    "odd, text on both sides": TokenGrid(7, 9, 13, prefix=5, suffix=3),
    "tiles fill the video exactly": TokenGrid(3, 8, 16),
    "text longer than a tile": TokenGrid(5, 7, 11, prefix=141),
    "one frame": TokenGrid(1, 17, 19, suffix=2),
    "smaller than a tile": TokenGrid(3, 2, 2, prefix=1),
    "one token": TokenGrid(1, 1, 1),
}

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def inputs(grid, heads, head_dim, dtype, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, grid.tokens, heads, head_dim)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for _ in range(3))


def bind(patterns, grid, query_tile=128, key_tile=64):
    builder = TileListBuilder(grid, query_tile, key_tile)
    numbers = [builder.add(pattern) for pattern in patterns]
    return builder.build(), numbers


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that a backend forgets to write is NaN, not by luck zero."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))


def test_oracle_is_plain_attention_without_a_mask():
    grid = TokenGrid(3, 5, 7, prefix=2)
    q, k, v = inputs(grid, 3, 24, torch.float64)
    full = torch.ones(grid.tokens, grid.tokens, dtype=torch.bool)
    plain = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(masked_attention(q, k, v, [full] * 3), plain)


def test_oracle_sees_only_what_the_mask_allows():
    q, k, v = inputs(TokenGrid(1, 3, 5), 1, 8, torch.float64, batch=1)
    alone = torch.eye(15, dtype=torch.bool)
    torch.testing.assert_close(masked_attention(q, k, v, [alone]), v)
    assert masked_attention(q, k, v, [torch.zeros_like(alone)]).abs().max() == 0


@pytest.mark.parametrize(("grid", "dtype", "tiles"), covering(GRIDS, list(RELATIVE_L2), [(128, 64), (48, 16)]))
def test_torch_backend(grid, dtype, tiles):
    q, k, v = inputs(grid, len(PATTERNS), 40, dtype)
    lists, numbers = bind(PATTERNS, grid, *tiles)
    result = sparse_attention(q, k, v, lists, numbers, backend="torch")
    assert_close(result, pattern_attention(q, k, v, PATTERNS, grid, *tiles))


def test_torch_backend_with_small_chunks(monkeypatch):
    monkeypatch.setattr(torch_backend, "CPU_CHUNK_BYTES", 40_000)
    grid = TokenGrid(7, 9, 13, prefix=5)
    q, k, v = inputs(grid, len(PATTERNS), 40, torch.float32)
    lists, numbers = bind(PATTERNS, grid, 48, 16)
    result = sparse_attention(q, k, v, lists, numbers, backend="torch")
    assert_close(result, pattern_attention(q, k, v, PATTERNS, grid, 48, 16))


def test_torch_backend_skips_tiles(monkeypatch):
    """Work follows the density: count the query-key pairs that really reach attention."""
    computed = 0

    def counting(query, k, v, keys, bias):
        nonlocal computed
        computed += query.shape[:-1].numel() * keys.shape[1]
        return query

    monkeypatch.setattr(torch_backend, "_attend", counting)
    grid = TokenGrid(7, 9, 13, prefix=5)
    for pattern in PATTERNS:
        computed = 0
        lists, numbers = bind([pattern], grid, 32, 16)
        sparse_attention(*inputs(grid, 1, 8, torch.float32, batch=1), lists, numbers, backend="torch")
        assert computed == pytest.approx(lists.densities[0] * grid.tokens**2)


@needs_triton
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize(("grid", "dtype", "head_dim"), covering(GRIDS, [torch.float16, torch.bfloat16], [64, 128]))
def test_triton_backend_interpreted(grid, dtype, head_dim):
    q, k, v = inputs(grid, len(PATTERNS), head_dim, dtype, batch=1)
    lists, numbers = bind(PATTERNS, grid)
    result = sparse_attention(q, k, v, lists, numbers, backend="triton")
    assert_close(result, pattern_attention(q, k, v, PATTERNS, grid))


@needs_triton
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize("layout", ["heads first", "slices of one tensor", "last dimension strided"])
def test_triton_backend_takes_strided_inputs(layout):
    grid = TokenGrid(5, 7, 11, prefix=3)
    shape = (2, grid.tokens, 3, 64)
    if layout == "heads first":
        q, k, v = (torch.randn(2, 3, grid.tokens, 64).half().transpose(1, 2) for _ in range(3))
    elif layout == "slices of one tensor":
        q, k, v = torch.randn(2, grid.tokens, 3, 3, 64).half().unbind(2)
    else:
        q, k, v = (torch.randn(2, grid.tokens, 3, 128).half()[..., ::2] for _ in range(3))
    assert q.shape == shape
    assert not q.is_contiguous()
    patterns = [Diagonal(1), MultiDiagonal(0.1, 0.1), Dense()]
    lists, numbers = bind(patterns, grid)
    result = sparse_attention(q, k, v, lists, numbers, backend="triton")
    assert_close(result, pattern_attention(q, k, v, patterns, grid))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_triton_backend_on_gpu(grid, dtype, head_dim):
    q, k, v = inputs(grid, len(PATTERNS), head_dim, dtype)
    lists, numbers = bind(PATTERNS, grid)
    result = sparse_attention(q.cuda(), k.cuda(), v.cuda(), lists.to("cuda"), numbers, backend="triton")
    assert_close(result.cpu(), pattern_attention(q, k, v, PATTERNS, grid))


def test_auto_says_why_triton_was_passed_over():
    grid = TokenGrid(3, 5, 7)
    lists, _ = bind([Dense()], grid)
    q = torch.zeros(1, grid.tokens, 1, 128)
    name, reason = choose_backend(AttentionCall(q, q, q, lists, (0,)))
    assert name == "torch"
    assert "float32" in reason or "not installed" in reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "cuda"}, "'cuda' is unknown"),
        ({"backend": "triton"}, "triton cannot run this call"),
        ({"tokens": 106}, "106 tokens"),
        ({"head_lists": [0, 5]}, "head_lists"),
        ({"head_lists": [0]}, "head_lists"),
    ],
    ids=str,
)
def test_wrong_calls_are_named(change, message):
    grid = TokenGrid(3, 5, 7)
    lists, _ = bind([Dense()], grid)
    x = torch.zeros(1, change.get("tokens", grid.tokens), 2, 32)
    with pytest.raises(ValueError, match=message):
        sparse_attention(x, x, x, lists, change.get("head_lists", [0, 0]), change.get("backend", "auto"))
