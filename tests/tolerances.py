"""The one table of numerical tolerances: largest ||x - truth|| / ||truth|| by dtype, the truth being in fp64."""

import torch
from torch import Tensor

SAMPLED = 1e-4
"""The same model in fp32 by other code, compiled or not: largest ||x - y|| / ||y||."""

SAMPLED_DENSE = 1e-5
"""Latents of ComfyUI's own attention and of an all-dense plan."""

RELATIVE_L2 = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def relative_l2(value: Tensor, truth: Tensor) -> float:
    """||value - truth|| / ||truth||, the norm of value alone where the truth is zero."""
    error = (value.double() - truth.double()).norm()
    return (error / truth.double().norm().clamp_min(1e-12)).item()


def assert_close(value: Tensor, truth: Tensor) -> None:
    """Fail when value is not finite or further from the truth than its dtype allows."""
    assert torch.isfinite(value).all()
    distance = relative_l2(value, truth)
    assert distance <= RELATIVE_L2[value.dtype], f"relative L2 {distance:.2e} for {value.dtype}"
