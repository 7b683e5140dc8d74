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
from sparse_vdit.kernels.configs import device_arch, kernel_config, untried_configs
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
@pytest.mark.parametrize(
    ("arch", "head_dim", "dtype", "key_bias"),
    [("sm_89", 64, torch.float16, True), ("sm_89", 128, torch.bfloat16, False), ("sm_90", 128, torch.float16, True)],
)
def test_fp8_interpreted(arch: str, head_dim: int, dtype: torch.dtype, key_bias: bool) -> None:
    options = {name: values[0] for name, values in OPTIONS.items()}
    call = make_call({**options, "head_dim": head_dim, "dtype": dtype, "key_bias": key_bias, "int8": True})
    out = triton_backend.run(call, arch, through_triton, untried_configs(arch, head_dim, True)["fp8"])
    assert INT8_RELATIVE_L2 < relative_l2(out, call_attention(call)) < FP8_RELATIVE_L2


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@every_case
def test_packed_tiles_interpreted(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group of heads after the other, through the same buffers; skipped heads, and grids without a tile, apart."""
    call, packs = make_call({**case, "tail": False}), []
    config = dataclasses.replace(kernel_config("sm_90", case["head_dim"], case["int8"]), packed=True)
    monkeypatch.setattr(packing, "group_size", lambda pairs: 4)
    out = triton_backend.run(
        call, "sm_90", lambda launch: (packs.append(launch.kernel), through_triton(launch)), config
    )
    assert_close(out, call_attention(call), int8=case["int8"])
    live = sum(call.lists.densities[number] > 0 for number in call.pair_lists)
    groups = -(-live // 4) if call.lists.grid.video_tokens >= call.lists.key_tile else 0
    assert packs.count("pack_tiles") == 2 * groups
    assert packs.count("attention") == groups + (live < 6 or not groups)


def test_packed_tiles_with_a_tail_are_refused() -> None:
    options = {name: values[0] for name, values in OPTIONS.items()}
    config = dataclasses.replace(kernel_config("sm_90", 64), packed=True)
    with pytest.raises(ValueError, match="packed keys and values with a tail"):
        triton_backend.run(make_call({**options, "tail": True}), "sm_90", lambda launch: None, config)


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
@pytest.mark.parametrize("name", ["packed", "fp8", "stages_2"])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_untried_configurations_on_gpu(name: str, int8: bool, head_dim: int) -> None:
    arch = device_arch(torch.device("cuda"))
    config = untried_configs(arch, head_dim, int8).get(name)
    if config is None:
        pytest.skip(f"{name} is not for {arch}, head_dim {head_dim}, INT8 {int8}")
    options = {name: values[0] for name, values in OPTIONS.items()}
    call = make_call({**options, "head_dim": head_dim, "int8": int8, "key_bias": True})
    out = triton_backend.run(to_gpu(call), arch, through_triton, config).cpu()
    if name == "fp8":
        assert relative_l2(out, call_attention(call)) < FP8_RELATIVE_L2
    else:
        assert_close(out, call_attention(call), int8=int8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("tail", [False, True])
def test_routing_on_gpu(tail: bool) -> None:
    """Tiles chosen there from means taken there; nearly equal tiles may change places, so few of them may differ."""
    grid, generator = TokenGrid(7, 9, 13, suffix=3), torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, grid.tokens, 3, 128, generator=generator).half() for _ in range(3))
    builder = TileListBuilder(grid)
    numbers = tuple(builder.add(pattern) for pattern in (Routed(0.3), Routed(0.3, order="flat"), Diagonal(0)))
    call = AttentionCall(q, k, v, builder.build(), numbers, tail=tail)
    routed = routed_call(to_gpu(call), triton_backend.means)
    same = (routed.lists.columns.cpu() == routed_call(call).lists.columns).float().mean()
    assert same > 0.95
    assert_close(run(routed, "triton").cpu(), call_attention(dataclasses.replace(call, lists=routed.lists.to("cpu"),
                 head_lists=routed.head_lists)))  # fmt: skip
