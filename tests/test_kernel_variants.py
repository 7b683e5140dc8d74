"""All options of a call together, each backend against the oracle: every pair of options meets in some case."""

import dataclasses
import importlib.util
import itertools

import pytest
import torch
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.backends import packing, triton_backend
from sparse_vdit.kernels.backends.launcher import through_triton
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.configs import kernel_config, untried_configs
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.oracle import call_attention
from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Routed, Skip, VerticalStripe
from sparse_vdit.kernels.routing import routed_call
from tolerances import FP8_RELATIVE_L2, INT8_RELATIVE_L2, assert_close, relative_l2

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
    "tail": (False, True),
    "key_bias": (False, True),
    "by_head": (False, True),
    "patterns": (
        (Dense(), Skip(), Routed(0.3)),
        (Diagonal(0), MultiDiagonal(0.1, 0.1), Routed(0.01, order="flat")),
        (VerticalStripe(), Diagonal(1, 0.2, 0.3, order="deep"), Dense()),
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
            chosen[name] = gain.index(max(gain))
        left, _, right, _ = first = min(pairs)
        if not any((a, chosen[a], b, chosen[b]) in pairs for a, b in itertools.combinations(names, 2)):
            chosen[left], chosen[right] = first[1], first[3]
        pairs -= {(a, chosen[a], b, chosen[b]) for a, b in itertools.combinations(names, 2)}
        cases.append({name: options[name][value] for name, value in chosen.items()})
    return cases


CASES = pairwise(OPTIONS)
every_case = pytest.mark.parametrize("case", CASES, ids=[str(number) for number in range(len(CASES))])


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
    return routed_call(AttentionCall(q, k, v, builder.build(), numbers, bias, case["int8"], case["tail"]))


def run(call: AttentionCall, backend: str) -> torch.Tensor:
    """The call through the door, memory that it forgets to write being NaN."""
    empty = torch.empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, dtype=None, **k: _poisoned(empty(*a, dtype=dtype, **k)))
        options = {"key_bias": call.key_bias, "int8": call.int8, "tail": call.tail}
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
@every_case
def test_triton_kernels_interpreted(case: dict) -> None:
    call = make_call(case)
    assert_close(run(call, "triton"), call_attention(call), int8=case["int8"])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize(("arch", "head_dim"), [("sm_89", 64), ("sm_89", 128), ("sm_90", 128)])
def test_fp8_interpreted(arch: str, head_dim: int) -> None:
    options = {name: values[0] for name, values in OPTIONS.items()}
    call = make_call({**options, "head_dim": head_dim, "int8": True})
    out = triton_backend.run(call, arch, through_triton, untried_configs(arch, head_dim, True)["fp8"])
    assert INT8_RELATIVE_L2 < relative_l2(out, call_attention(call)) < FP8_RELATIVE_L2


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize("case", CASES[::3], ids=[str(number) for number in range(len(CASES))][::3])
def test_packed_tiles_interpreted(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group of heads after the other, through the same buffers."""
    call = make_call(case)
    config = untried_configs("sm_90", case["head_dim"], case["int8"])["packed"]
    monkeypatch.setattr(packing, "group_size", lambda pairs: 4)
    out = triton_backend.run(call, "sm_90", through_triton, config)
    assert_close(out, call_attention(call), int8=case["int8"])


def test_packed_groups_take_a_tenth_of_the_memory() -> None:
    for pairs in (1, 3, 12, 24, 40, 80):
        size = packing.group_size(pairs)
        assert size == 1 or 2 * size <= 0.1 * 3 * pairs


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.parametrize(
    ("arch", "head_dim", "int8", "tail"),
    [
        ("sm_89", 64, True, True),
        ("sm_89", 128, True, False),
        ("gfx1201", 64, True, True),
        ("gfx1201", 128, False, False),
    ],
)
def test_the_configurations_of_other_cards(
    arch: str, head_dim: int, int8: bool, tail: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in fp16, and half tiles of queries, which the interpreter's own architecture does not have."""
    config = kernel_config(arch, head_dim, int8, tail)
    assert (config.pv, config.rows) != ("model", 128)
    monkeypatch.setattr(triton_backend, "INTERPRETED_ARCH", arch)
    options = {name: values[0] for name, values in OPTIONS.items()}
    call = make_call({**options, "head_dim": head_dim, "int8": int8, "tail": tail})
    assert_close(run(call, "triton"), call_attention(call), int8=int8)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
def test_sums_in_fp16_stand_large_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 equal weights times 2,000 would be beyond fp16."""
    monkeypatch.setattr(triton_backend, "INTERPRETED_ARCH", "sm_89")
    options = {name: values[0] for name, values in OPTIONS.items()}
    call = make_call({**options, "head_dim": 64, "int8": True, "tail": False})
    call = dataclasses.replace(call, q=torch.zeros_like(call.q), v=torch.full_like(call.v, 2000))
    skipped = call.lists.skipped()
    live = run(call, "triton")[:, :, [not skipped[number] for number in call.pair_lists[:3]]]
    torch.testing.assert_close(live, torch.full_like(live, 2000))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_case
def test_triton_kernels_on_gpu(case: dict) -> None:
    call = make_call(case)
    bias = None if call.key_bias is None else call.key_bias.cuda()
    on_gpu = AttentionCall(
        *(x.cuda() for x in (call.q, call.k, call.v)),
        call.lists.to("cuda"),
        call.head_lists,
        bias,
        call.int8,
        call.tail,
    )
    assert_close(run(on_gpu, "triton").cpu(), call_attention(call), int8=case["int8"])
