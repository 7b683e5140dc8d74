"""Attention with values and weights of every size: where 8 bits or sums in fp16 could overflow or vanish."""

import importlib.util

import pytest
import torch
from covering import covering
from sparse_vdit.kernels.backends import triton_backend
from sparse_vdit.kernels.backends.launcher import through_triton
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.kernels.oracle import call_attention
from sparse_vdit.kernels.patterns import Dense, Diagonal
from tolerances import INT8_RELATIVE_L2, RELATIVE_L2, relative_l2

GRID = TokenGrid(4, 7, 13, prefix=5, suffix=3)
SINK = 4  # a text token
ARCHS = ("sm_80", "sm_89")  # sums in fp32 and in fp16
NATS = (0, 10, 14, 17, 20)

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1, set where there is no GPU"),
]


def scaled_call(dtype, scale=1.0, channel=1.0, nats=0.0, empty_sink=False, int8=True, head_dim=64) -> AttentionCall:
    """Values times `scale`, one channel of them times `channel`, and a key `nats` above the others, whose value is zero
    where `empty_sink`: then the output is made of the small weights alone."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, GRID.tokens, 2, head_dim, generator=generator) for _ in range(3))
    if empty_sink:
        v[:, SINK] = 0
    v *= scale
    v[..., 3] *= channel
    bias = torch.zeros(1, GRID.text_tokens)
    bias[0, SINK] = nats
    builder = TileListBuilder(GRID)
    numbers = tuple(builder.add(pattern) for pattern in (Dense(), Diagonal(1)))
    return AttentionCall(*(x.to(dtype) for x in (q, k, v)), builder.build(), numbers, bias, int8)


def error(call: AttentionCall, arch: str) -> float:
    """Relative L2 against exact attention."""
    out = triton_backend.run(call, arch, through_triton)
    assert torch.isfinite(out).all()
    return relative_l2(out, call_attention(call))


@pytest.mark.parametrize(("scale", "arch"), covering([1e-6, 1e-4, 1e4, 1e6], ARCHS))
def test_values_of_any_scale(scale: float, arch: str) -> None:
    assert error(scaled_call(torch.bfloat16, scale), arch) <= INT8_RELATIVE_L2


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e4, 1e6])
def test_values_of_any_scale_in_16_bits(scale: float) -> None:
    assert error(scaled_call(torch.bfloat16, scale, int8=False), "sm_89") <= RELATIVE_L2[torch.bfloat16]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_values_of_fp16_models(scale: float) -> None:
    """Smaller ones are subnormal numbers of fp16 already, in the model itself."""
    assert error(scaled_call(torch.float16, scale), "sm_89") <= INT8_RELATIVE_L2
    assert error(scaled_call(torch.float16, scale, int8=False), "sm_89") <= RELATIVE_L2[torch.float16]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("channel", [1e-6, 1e6])
def test_one_channel_of_another_scale(arch: str, channel: float) -> None:
    call = scaled_call(torch.bfloat16, channel=channel)
    assert error(call, arch) <= INT8_RELATIVE_L2
    out, truth = (x[..., 3] for x in (triton_backend.run(call, arch, through_triton), call_attention(call)))
    assert relative_l2(out, truth) <= 1.5 * INT8_RELATIVE_L2  # which the norm of all channels may not show


@pytest.mark.parametrize(("nats", "empty_sink"), covering(NATS, [False, True]))
def test_sinks_in_8_bits(nats: float, empty_sink: bool) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        # values so large that the output is above fp16's smallest numbers
        call = scaled_call(dtype, scale=64.0, nats=nats, empty_sink=empty_sink)
        assert error(call, "sm_89") <= INT8_RELATIVE_L2, dtype


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sinks_in_16_bits(arch: str, dtype: torch.dtype) -> None:
    call = scaled_call(dtype, scale=1024.0, nats=17, empty_sink=True, int8=False)
    assert error(call, arch) <= RELATIVE_L2[dtype]


@pytest.mark.parametrize("int8", [False, True])
def test_large_sums_do_not_overflow(int8: bool) -> None:
    """64 equal weights times 2,000 would be beyond fp16."""
    call = scaled_call(torch.float16, head_dim=128, int8=int8)
    call.q.zero_()
    call.v.fill_(2000)
    out = triton_backend.run(call, "sm_89", through_triton)
    torch.testing.assert_close(out, torch.full_like(out, 2000), rtol=1e-3, atol=0)
