"""The model's own attention: what computes a call where the pack does not."""

from __future__ import annotations

import sys
from collections.abc import Callable

from torch import Tensor, nn

COMFYUI_ATTENTION = "comfy.ldm.modules.attention"


def model_attention(model: nn.Module | None = None) -> Callable:
    """The attention that a model's code calls, with whatever is around it at this moment; ComfyUI's without a model."""
    module = sys.modules.get(type(model).__module__)
    return getattr(module, "optimized_attention", None) or sys.modules[COMFYUI_ATTENTION].optimized_attention


def undecorated(function: Callable) -> Callable:
    """Attention without what asks for overrides: what overrides are given."""
    return getattr(function, "__wrapped__", function)


def own_attention(chained: Callable | None, function: Callable, *args: object, **kwargs: object) -> Tensor:
    """Attention of the chained override, or `function`, as ComfyUI would call it without the pack."""
    return function(*args, **kwargs) if chained is None else chained(function, *args, **kwargs)


def contained_attention(chained: Callable | None, *args: object, **kwargs: object) -> Tensor:
    """The same of what is in containers, which are emptied."""
    if chained is None:
        return model_attention()(*args, **kwargs)  # `_inside_attn_wrapper` among kwargs keeps it from asking again
    consume = getattr(chained, "container_function", None)
    if consume is not None:
        return consume(*args, **kwargs)
    tensors = (container.take() for container in args[:3])
    return chained(undecorated(model_attention()), *tensors, *args[3:], **kwargs)


def refilled(args: tuple) -> tuple:
    """Arguments of attention with other containers that hold the same q, k and v."""
    return (*(type(container)(container.peek()) for container in args[:3]), *args[3:])
