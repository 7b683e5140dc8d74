"""The one table of numerical tolerances: largest ||x - truth|| / ||truth|| by dtype, the truth being in fp64."""

import torch
from torch import Tensor

SAMPLED = 1e-4
"""The same model in fp32 by other code, compiled or not: largest ||x - y|| / ||y||."""

SAMPLED_DENSE = 1e-5
"""Latents of ComfyUI's own attention and of an all-dense plan."""

INT8_RELATIVE_L2 = 2e-2
"""Of q k^T in 8 bits with smoothed keys, in whatever dtype the rest is."""

RELATIVE_L2 = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def relative_l2(value: Tensor, truth: Tensor) -> float:
    """||value - truth|| / ||truth||, the norm of value alone where the truth is zero."""
    error = (value.double() - truth.double()).norm()
    return (error / truth.double().norm().clamp_min(1e-12)).item()


def assert_close(value: Tensor, truth: Tensor, int8: bool = False) -> None:
    """Fail when value is not finite or further from the truth than its dtype, or INT8, allows."""
    assert torch.isfinite(value).all()
    distance, allowed = relative_l2(value, truth), INT8_RELATIVE_L2 if int8 else RELATIVE_L2[value.dtype]
    assert distance <= allowed, f"relative L2 {distance:.2e} for {value.dtype}{', INT8' if int8 else ''}"
