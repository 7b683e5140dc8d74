"""All options of a call together, each backend against the oracle: every pair of options meets in some case."""

import dataclasses
import importlib.util
import itertools

import pytest
import torch
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.backends import tile_copies, triton_backend
from sparse_vdit.kernels.backends.launcher import through_triton
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.configs import device_arch, kernel_config, packed_config
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.oracle import call_attention
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.kernels.routing import routed_call
from tolerances import assert_close

OPTIONS = {
    "grid": (
        TokenGrid(7, 9, 13, prefix=5, suffix=3),
        TokenGrid(3, 8, 16),
        TokenGrid(5, 7, 11, prefix=141),
        TokenGrid(1, 17, 19, suffix=2),
        TokenGrid(2, 3, 5, prefix=1, suffix=67),
    ),
    "dtype": (torch.float16, torch.bfloat16),
    "head_dim": (64, 128),
    "int8": (False, True),
    "key_bias": (False, True),
    "by_head": (False, True),
    "patterns": (
        (Dense(), Skip(), Routed(0.3)),
        (Diagonal(0), MultiDiagonal(0.1, 0.1), Routed(0.01, order="spatial")),
        (VerticalStripe(), Diagonal(1, 0.2, 0.3, order="spatiotemporal"), Dense()),
    ),
}


def pairwise(options: dict) -> list[dict]:
    """Few cases in which any two values of different options meet at least once (greedy, always the same)."""
    names = list(options)
    pairs = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(options[a]))
        for j in range(len(options[b]))
    }
    cases = []
    while pairs:
        chosen: dict[str, int] = {}
        for name in names:
            used = [sum(case[name] == value for case in cases) for value in options[name]]
            gain = [
                sum(
                    (o, chosen[o], name, value) in pairs
                    if o in chosen
                    else any((name, value, o, other) in pairs for other in range(len(options[o])))
                    for o in names
                    if o != name
                )
                for value in range(len(options[name]))
            ]
            chosen[name] = max(range(len(gain)), key=lambda value: (gain[value], -used[value]))
        left, _, right, _ = first = min(pairs)
        if not any((a, chosen[a], b, chosen[b]) in pairs for a, b in itertools.combinations(names, 2)):
            chosen[left], chosen[right] = first[1], first[3]
        pairs -= {(a, chosen[a], b, chosen[b]) for a, b in itertools.combinations(names, 2)}
        cases.append({name: options[name][value] for name, value in chosen.items()})
    return cases


CASES = pairwise(OPTIONS)
every_case = pytest.mark.parametrize("case", CASES, ids=[str(number) for number in range(len(CASES))])
interpreted_cases = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=str(n), marks=pytest.mark.slow if n % 3 else ()) for n, case in enumerate(CASES)],
)
"""All of them, of which one in three runs every time: the interpreter takes seconds for each."""


def make_call(case: dict) -> AttentionCall:
    """A call of a case, two in the batch, with outlier channels as keys have them."""
    grid, heads, dim = case["grid"], len(case["patterns"]), case["head_dim"]
    generator = torch.Generator().manual_seed(3)

    def tensor() -> torch.Tensor:
        shape = (2, heads, grid.tokens, dim) if case["by_head"] else (2, grid.tokens, heads, dim)
        x = torch.randn(shape, generator=generator).to(case["dtype"])
        return x.transpose(1, 2) if case["by_head"] else x

    q, k, v = tensor(), tensor(), tensor()
    k = k + 2 * torch.randn(dim, generator=generator).to(k.dtype)
    builder = TileListBuilder(grid)
    numbers = tuple(builder.add(pattern) for pattern in case["patterns"])
    bias = None
    if case["key_bias"]:
        bias = torch.randn(2, grid.prefix + grid.suffix, generator=generator)
        bias[0, ::2] = -torch.inf
    return routed_call(AttentionCall(q, k, v, builder.build(), numbers, bias, case["int8"]))


def run(call: AttentionCall, backend: str) -> torch.Tensor:
    """The call through the door, memory that it forgets to write being NaN."""
    empty = torch.empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, dtype=None, **k: _poisoned(empty(*a, dtype=dtype, **k)))
        options = {"key_bias": call.key_bias, "int8": call.int8}
        return sparse_attention(call.q, call.k, call.v, call.lists, call.head_lists, backend, **options)


def _poisoned(x: torch.Tensor) -> torch.Tensor:
    return x.fill_(torch.nan) if x.is_floating_point() else x.fill_(77)


def test_every_pair_of_options_meets() -> None:
    assert len(CASES) <= 40
    for (a, first), (b, second) in itertools.combinations(OPTIONS.items(), 2):
        for x, y in itertools.product(first, second):
            assert any(case[a] == x and case[b] == y for case in CASES), (a, x, b, y)


@every_case
def test_torch_backend(case: dict) -> None:
    call = make_call(case)
    assert_close(run(call, "torch"), call_attention(call))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@interpreted_cases
def test_triton_kernels_interpreted(case: dict) -> None:
    call = make_call(case)
    assert_close(run(call, "triton"), call_attention(call), int8=case["int8"])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@interpreted_cases
def test_packed_tiles_interpreted(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group of heads after the other, through the same buffers; grids without a tile are not packed."""
    call, launched = make_call({**case, "int8": False}), []
    monkeypatch.setattr(tile_copies, "group_size", lambda *_: 4)
    config = packed_config("sm_90", case["head_dim"])
    out = triton_backend.run(
        call, "sm_90", lambda launch: (launched.append(launch.kernel), through_triton(launch)), config
    )
    assert_close(out, call_attention(call))
    live = sum(call.lists.densities[number] > 0 for number in call.pair_lists)
    tiles = call.lists.grid.video_tokens >= call.lists.key_tile
    assert launched.count("pack_tiles") == tiles * 2 * -(-live // 4)
    assert launched.count("attention") == (2 if tiles else 1)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize("arch", ["sm_80", "sm_89"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_quantized_tiles_of_few_heads_at_a_time(arch: str, head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped heads, which come last, get no copies: the last group is of them alone."""
    options = {name: values[0] for name, values in OPTIONS.items()}
    call, launched = make_call({**options, "grid": TokenGrid(3, 8, 16), "head_dim": head_dim, "int8": True}), []
    assert sum(call.lists.skipped()[number] for number in call.pair_lists) == 2
    monkeypatch.setattr(tile_copies, "group_size", lambda *_: 4)
    out = triton_backend.run(call, arch, lambda launch: (launched.append(launch), through_triton(launch)))
    assert_close(out, call_attention(call), int8=True)
    assert [launch.kernel for launch in launched] == ["quantize_tiles", "attention", "attention"]


@pytest.mark.parametrize(("bytes_per_element", "allowed"), [(4, 1 / 10), (3, 1 / 6), (1, 1 / 6)])
def test_groups_of_heads_keep_to_the_memory(bytes_per_element: int, allowed: float) -> None:
    for pairs in (1, 3, 12, 24, 40, 80):
        size = tile_copies.group_size(pairs, bytes_per_element, allowed)
        assert size == 1 or bytes_per_element * size <= allowed * 6 * pairs + 1e-6
        assert pairs - (-(-pairs // size) - 1) * size > size / 2 or size <= 3  # the last group is no small rest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize(
    ("arch", "head_dim", "int8"),
    [
        ("sm_89", 64, False),
        ("sm_89", 64, True),
        ("sm_89", 128, False),
        ("sm_89", 128, True),
        ("gfx1201", 64, True),
        ("gfx1201", 128, False),
        ("gfx1100", 64, False),
        ("gfx1100", 128, True),
    ],
)
def test_the_configurations_of_other_cards(
    arch: str, head_dim: int, int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in fp16, and half tiles of queries, which the interpreter's own architecture does not have."""
    config = kernel_config(arch, head_dim, int8)
    assert (config.fp16_sums, config.rows) != (False, 128)
    monkeypatch.setattr(triton_backend, "INTERPRETED_ARCH", arch)
    options = {name: values[0] for name, values in OPTIONS.items()}
    for dtype in (torch.float16, torch.bfloat16) if config.fp16_sums else (torch.float16,):
        grid = TokenGrid(5, 7, 11, prefix=141) if dtype == torch.bfloat16 else options["grid"]
        call = make_call({**options, "grid": grid, "dtype": dtype, "head_dim": head_dim, "int8": int8})
        assert_close(run(call, "triton"), call_attention(call), int8=int8)


def to_gpu(call: AttentionCall) -> AttentionCall:
    """The same call on the GPU."""
    bias = None if call.key_bias is None else call.key_bias.cuda()
    tensors = {"q": call.q.cuda(), "k": call.k.cuda(), "v": call.v.cuda(), "key_bias": bias}
    return dataclasses.replace(call, **tensors, lists=call.lists.to("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_case
def test_triton_kernels_on_gpu(case: dict) -> None:
    call = make_call(case)
    assert_close(run(to_gpu(call), "triton").cpu(), call_attention(call), int8=case["int8"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("head_dim", [64, 128])
def test_packed_tiles_on_gpu(head_dim: int) -> None:
    arch = device_arch(torch.device("cuda"))
    config = packed_config(arch, head_dim)
    if config is None:
        pytest.skip(f"no packed kernel for {arch}")
    options = {name: values[0] for name, values in OPTIONS.items()}
    call = make_call({**options, "head_dim": head_dim, "key_bias": True})
    out = triton_backend.run(to_gpu(call), arch, through_triton, config).cpu()
    assert_close(out, call_attention(call))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_routing_on_gpu() -> None:
    """Tiles chosen there from means taken there; nearly equal tiles may change places, so few of them may differ."""
    grid, generator = TokenGrid(7, 9, 13, suffix=3), torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, grid.tokens, 3, 128, generator=generator).half() for _ in range(3))
    builder = TileListBuilder(grid)
    numbers = tuple(builder.add(pattern) for pattern in (Routed(0.3), Routed(0.3, order="spatial"), Diagonal(0)))
    call = AttentionCall(q, k, v, builder.build(), numbers)
    routed = routed_call(to_gpu(call), triton_backend.choose)
    same = (routed.lists.kv_indices.cpu() == routed_call(call).lists.kv_indices).float().mean()
    assert same > 0.95
    assert_close(run(routed, "triton").cpu(), call_attention(dataclasses.replace(call, lists=routed.lists.to("cpu"),
                 head_lists=routed.head_lists)))  # fmt: skip
