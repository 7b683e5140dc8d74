"""Which backend a call is trusted to: self-tests, falling back after an error, and checks on the data of a run."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch
from sparse_vdit.kernels import attention, routing, self_test
from sparse_vdit.kernels.attention import choose_backend, forget_failures, run_call, sparse_attention, with_fallback
from sparse_vdit.kernels.backends import torch_backend, triton_backend
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.memory import out_of_memory as out_of_memory_error
from sparse_vdit.kernels.patterns import Dense, Diagonal, Routed, Skip
from sparse_vdit.kernels.routing import routed_call
from sparse_vdit.kernels.spot_check import WrongOutput, spot_check

CPU = torch.device("cpu")
PATTERNS = (Diagonal(0), Dense())


def fake_backend(
    attend=torch_backend.attention, choose=torch_backend.choose, refusal=lambda call: None, test=True
) -> SimpleNamespace:
    """A backend of torch's arithmetic, or of what a test puts in its place."""
    return SimpleNamespace(attention=attend, choose=choose, refusal=refusal, needs_self_test=lambda device: test)


def spoiled(call: AttentionCall) -> torch.Tensor:
    """One head is a little wrong."""
    out = torch_backend.attention(call)
    out[1, :, 1] *= 1.1
    return out


def not_a_number(call: AttentionCall) -> torch.Tensor:
    return torch_backend.attention(call) * torch.nan


def broken(call: AttentionCall) -> torch.Tensor:
    raise RuntimeError("PTX was not compiled\nfatal error: Python.h: No such file")


def out_of_memory(call: AttentionCall) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def backends(monkeypatch):
    """A function that takes the backends before torch; whatever was found of them is forgotten."""

    def use(**found: SimpleNamespace) -> None:
        forget_failures()
        monkeypatch.setattr(attention, "BACKENDS", {**found, "torch": torch_backend})

    yield use
    forget_failures()


def make_call(dtype=torch.bfloat16, patterns=PATTERNS, int8=False) -> AttentionCall:
    grid = TokenGrid(3, 9, 13, prefix=5, suffix=3)
    builder = TileListBuilder(grid)
    numbers = tuple(builder.add(pattern) for pattern in patterns)
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, grid.tokens, len(numbers), 64, generator=generator).to(dtype) for _ in range(3))
    return AttentionCall(q, k, v, builder.build(), numbers, None, int8)


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_right_backend_passes(dtype: torch.dtype, routed: bool) -> None:
    assert self_test.self_test(fake_backend(), CPU, dtype, 64, False, routed) is None


def test_the_call_of_the_self_test_fills_the_pipeline() -> None:
    for routed in (False, True):
        call = routed_call(self_test.small_call(CPU, torch.float16, 64, False, routed))
        kv_num_blocks = [call.lists.kv_num_blocks[number, :-1] for number in call.pair_lists]
        assert all((count >= 12).all() or (count == -1).all() for count in kv_num_blocks)
        assert sum(bool((count == -1).all()) for count in kv_num_blocks) == 1
        assert call.q.stride() == call.k.stride() and call.k.data_ptr() - call.q.data_ptr() == 2 * 64 * 2


@pytest.mark.parametrize(
    ("attend", "message"),
    [
        (spoiled, r"the output is wrong, relative error 1.0e-01, at most 1e-02 is right"),
        (not_a_number, r"the output is wrong, relative error nan"),
        (broken, r"its self-test failed: fatal error: Python.h: No such file"),
    ],
)
def test_a_wrong_backend_is_refused_with_its_error(backends, attend, message) -> None:
    backends(triton=fake_backend(attend))
    for _ in range(2):
        name, passed_over = choose_backend(make_call())
        assert name == "torch"
        assert passed_over.startswith("triton: ") and re.search(message, passed_over)
    with pytest.raises(ValueError, match="backend triton cannot run this call: its self-test failed"):
        choose_backend(make_call(), "triton")


def test_wrong_tiles_are_seen(backends) -> None:
    def first_tiles(call, routing, kv_indices):
        torch_backend.choose(call, routing, kv_indices)
        chosen = kv_indices[len(call.lists.kv_indices) - 2 : -2]
        chosen.copy_(torch.arange(len(chosen)) % 12)

    def no_tiles(call, routing, kv_indices):
        kv_indices[len(call.lists.kv_indices) - 2 : -2] = 99

    for choose, message in ((first_tiles, "of the chosen key tiles are right"), (no_tiles, "names key tile 99")):
        backends(triton=fake_backend(choose=choose))
        assert message in choose_backend(make_call(patterns=(Routed(0.4), Dense())))[1]
        assert choose_backend(make_call())[0] == "triton", "calls without routed heads have a test of their own"


def test_a_self_test_runs_once_for_a_kind_of_calls(backends) -> None:
    calls = []

    def attend(call):
        calls.append(call.int8)
        return torch_backend.attention(call)

    backends(triton=fake_backend(attend))
    for _ in range(3):
        choose_backend(make_call())
        choose_backend(make_call(int8=True))
        choose_backend(make_call(torch.float16))
    assert calls == [False, True, False]


def test_a_self_test_without_memory_is_not_kept(backends) -> None:
    module = fake_backend(out_of_memory)
    backends(triton=module)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            choose_backend(make_call())
    module.attention = torch_backend.attention
    assert choose_backend(make_call()) == ("triton", None)


def test_a_backend_that_breaks_gives_way_in_the_same_call(backends) -> None:
    """A Triton that breaks reaches the shipped kernels, and is not asked again for calls of the kind."""
    asked = []

    def breaks(call):
        asked.append(call.q.dtype)
        return broken(call)

    backends(triton=fake_backend(breaks, test=False), compiled=fake_backend())
    call = make_call()
    for _ in range(2):
        out, name, passed_over = with_fallback(call, "auto", lambda name: run_call(call, name))
        assert torch.equal(out, torch_backend.attention(call))
        assert (name, passed_over) == ("compiled", "triton: it failed: fatal error: Python.h: No such file")
    assert asked == [torch.bfloat16]
    other = make_call(torch.float16)
    sparse_attention(other.q, other.k, other.v, other.lists, other.head_lists)
    assert asked == [torch.bfloat16, torch.float16]
    assert attention.refusal("triton", make_call(int8=True)) is None


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_a_backend_without_8_bits_runs_the_exact_kernel_and_says_so(backends, backend) -> None:
    asked = []

    def attend(call):
        asked.append(call.int8)
        return torch_backend.attention(call)

    triton = fake_backend(attend, test=False)
    triton.refusal = lambda call: "8 bits are slower" if call.int8 else None
    backends(triton=triton)
    call = make_call(int8=True)
    out, name, passed_over = with_fallback(call, backend, lambda name: run_call(call, name))
    assert (name, passed_over) == ("triton", "triton in 8 bits: 8 bits are slower")
    assert torch.equal(out, torch_backend.attention(call)) and asked == [False]

    triton.attention = broken  # the exact kernel is what failed
    if backend == "triton":
        with pytest.raises(RuntimeError, match="PTX was not compiled"):
            with_fallback(call, backend, lambda name: run_call(call, name))
        return
    assert with_fallback(call, backend, lambda name: run_call(call, name))[1] == "torch"
    assert "it failed" in attention.refusal("triton", make_call())


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_a_lack_of_memory_is_raised_and_bars_nothing(backends, backend) -> None:
    backends(triton=fake_backend(out_of_memory, test=False), compiled=fake_backend())
    call = make_call()
    with pytest.raises(torch.OutOfMemoryError):
        with_fallback(call, backend, lambda name: run_call(call, name))
    assert choose_backend(call)[0] == "triton"


def test_the_last_backend_and_a_named_one_raise_their_errors(backends, monkeypatch) -> None:
    backends(triton=fake_backend(broken, test=False))
    call = make_call()
    with pytest.raises(RuntimeError, match="PTX was not compiled"):
        with_fallback(call, "triton", lambda name: run_call(call, name))
    monkeypatch.setattr(torch_backend, "attention", broken)
    with pytest.raises(RuntimeError, match="PTX was not compiled"):
        with_fallback(call, "auto", lambda name: run_call(call, name))


@pytest.mark.parametrize("patterns", [(Diagonal(0), Dense(), Skip()), (Routed(0.4), Dense())])
@pytest.mark.parametrize("biased", [False, True])
def test_a_right_output_passes_the_spot_check(patterns, biased) -> None:
    call = make_call(patterns=patterns)
    if biased:
        bias = torch.randn(2, 8)
        bias[:, 1] = -torch.inf
        call = dataclasses.replace(call, key_bias=bias)
    chosen = routed_call(call)
    assert 0 < spot_check(chosen, torch_backend.attention(chosen)) < 1e-2


def test_a_wrong_head_fails_the_spot_check() -> None:
    call = make_call(patterns=(Diagonal(0), Dense(), Skip()))
    right = torch_backend.attention(call)
    for head in range(3):
        out = right.clone()
        out[1, :, head] += 0.05
        with pytest.raises(WrongOutput, match=r"wrong on the model's own data: relative error .*, limit 1e-02"):
            spot_check(call, out)
    with pytest.raises(WrongOutput):
        spot_check(call, right * torch.nan)


def test_the_spot_check_of_8_bits_allows_their_rounding() -> None:
    call = make_call(int8=True)
    right = torch_backend.attention(call)
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(1)) * right.float().abs()
    assert 1e-2 < spot_check(call, (right + 0.02 * noise).to(right.dtype)) < 3e-2
    with pytest.raises(WrongOutput, match="limit 3e-02"):
        spot_check(call, (right + 0.06 * noise).to(right.dtype))


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-6])
def test_rounding_of_small_outputs_is_no_error(scale) -> None:
    """The smallest numbers of fp16 are rounded by more than the limit, whoever computes them."""
    call = make_call(torch.float16)
    call.v.mul_(scale)
    assert spot_check(call, torch_backend.attention(call)) < 2e-3


def test_heads_whose_exact_output_is_not_finite_are_left_out() -> None:
    call = make_call()
    right = torch_backend.attention(call)
    call.v[:, :, 0] = torch.inf
    out = right.clone()
    out[:, :, 0] = torch.nan
    assert spot_check(call, out) < 1e-2
    out[:, :, 1] *= 1.1
    with pytest.raises(WrongOutput):
        spot_check(call, out)


def test_the_self_test_with_a_routed_head_counts_for_calls_without_one(backends) -> None:
    calls = []

    def attend(call):
        calls.append(call.q.shape[1])
        return torch_backend.attention(call)

    backends(triton=fake_backend(attend))
    choose_backend(make_call(patterns=(Routed(0.4), Dense())))
    choose_backend(make_call())
    assert calls == [1584]


def test_what_is_tested_before_a_call_is_the_backend_that_it_will_take(backends) -> None:
    """Not one that passed once and failed since, nor one that the user did not name."""
    asked = []

    def noting(name):
        return fake_backend(lambda call: asked.append(name) or torch_backend.attention(call))

    backends(triton=noting("triton"), compiled=noting("compiled"))
    kind = CPU, torch.bfloat16, 64, False, False
    for _ in range(2):
        attention.try_kernels(*kind)
    assert asked == ["triton"]
    attention.bar("triton", make_call(), WrongOutput("x"))
    attention.try_kernels(*kind)
    assert asked == ["triton", "compiled"]
    forget_failures()
    attention.try_kernels(*kind)
    attention.try_kernels(*kind, "compiled")
    assert asked[2:] == ["triton", "compiled"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("cuModuleLoadDataEx failed: CUDA_ERROR_OUT_OF_MEMORY"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("invalid argument"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, expected) -> None:
    assert out_of_memory_error(error) is expected


def test_more_chosen_tiles_than_kernels_count_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(routing, "MAX_ENTRIES", 8)
    with pytest.raises(ValueError, match=r"2 routed heads choose .* key tiles, kernels count up to 8"):
        routed_call(make_call(patterns=(Routed(0.4), Dense())))


@pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU")
@pytest.mark.skipif(not triton_backend.TRITON_FOUND, reason="Triton is not installed")
@pytest.mark.parametrize(("dtype", "int8", "routed"), [(torch.float16, True, True), (torch.bfloat16, False, False)])
def test_the_interpreted_kernels_pass_their_self_test(dtype, int8, routed) -> None:
    assert self_test.self_test(triton_backend, CPU, dtype, 64, int8, routed) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["triton", "compiled"])
def test_the_kernels_pass_their_self_test_on_a_gpu(name, dtype, int8, routed) -> None:
    kind = torch.device("cuda", 0), dtype, 128, int8, routed
    reason = attention.BACKENDS[name].refusal(self_test.small_call(*kind))
    if reason is not None:
        pytest.skip(reason)
    assert self_test.self_test(attention.BACKENDS[name], *kind) is None
