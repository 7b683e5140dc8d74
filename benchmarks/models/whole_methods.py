"""What `end_to_end.py` measures a whole model with: ways to compute its attention, each put on a clone of the MODEL.

All go through ComfyUI's one override of attention, as a node that is dragged into a workflow does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.kernels.kernel_methods import EXTRA_TOKENS
from benchmarks.models.pack_methods import ours, ours_as_users_do
from benchmarks.models.whole_targets import Attach, Method, MissingError, Target, by, refuse

REFERENCE = "sdpa_flash"
"""Dense attention that sums in fp32; what outputs are compared with."""
NO_ATTENTION = "no_attention"


def sdpa(backend: SDPBackend | None) -> Attach:
    """PyTorch's dense attention by one of its backends, or by its own choice; on a CPU there is but one."""

    def attach(target: Target) -> None:
        if target.device.type == "cpu" and backend not in (None, SDPBackend.FLASH_ATTENTION):
            raise MissingError("needs a GPU")
        chosen = partial(sdpa_kernel, backend) if target.device.type == "cuda" and backend else nullcontext

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with chosen():
                return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

        by(attend)(target)

    return attach


def registered(name: str) -> Attach:
    """An attention that ComfyUI offers under a name, set as its own node sets it."""

    def attach(target: Target) -> None:
        from comfy.ldm.modules.attention import get_attention_function

        function = get_attention_function(name, None)
        if function is None:
            raise MissingError(f"this ComfyUI has no attention {name} here")
        target.patcher.set_model_optimized_attention(function)

    return attach


def flash3(target: Target) -> None:
    """FlashAttention 3, where its package is installed."""
    attend = imported("flash_attn_interface").flash_attn_func

    def first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attend(q, k, v)
        return out[0] if isinstance(out, tuple) else out

    by(first)(target)


def sage(target: Target) -> None:
    """SageAttention as ComfyUI calls it, but for ComfyUI's own way out: where it fails, dense attention unasked."""
    attend = imported("sageattention").sageattn
    by(partial(attend, tensor_layout="NHD", is_causal=False, smooth_k=False))(target)


def imported(name: str) -> object:
    """A package that may be missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingError(f"{name} is not installed ({error})") from error


def no_attention(target: Target) -> None:
    """Values as they are: what remains of a step is not attention."""
    by(lambda q, k, v: v, everywhere=False)(target)


def core_sparse(selection: str, **settings: float) -> Attach:
    """ComfyUI's Model Sparse Attention over the whole schedule; its kernel through the same override where this ComfyUI
    is older than the node."""

    def attach(target: Target) -> None:
        if target.shape[2] != 128:
            raise MissingError(f"its kernel takes head_dim 128 alone, this model has {target.shape[2]}")
        kitchen = imported("comfy_kitchen")
        if not hasattr(kitchen, "sol_attn"):
            raise MissingError("this comfy-kitchen has no sol_attn, the kernel of ComfyUI's Model Sparse Attention")
        known = getattr(kitchen, "sol_attn_is_available", lambda device: True)
        if not known(target.device):  # the node would silently be dense
            raise MissingError("this comfy-kitchen has no sol_attn for this device")
        try:
            node = import_module("comfy_extras.nodes_sparse_attention").BlockSparseAttention
        except ImportError as error:
            target.note = f"its kernel through ComfyUI's override, as the node could not be had ({error})"
            return _kernel_of_core(target, kitchen.sol_attn, **settings)
        refuse(target)
        chosen = {"selection": selection, **settings}
        patched = node.execute(target.patcher, chosen, 0.0, 1.0, min_tokens=0, extra_tokens=EXTRA_TOKENS)
        target.patcher = patched.result[0]

    return attach


def _kernel_of_core(target: Target, attend: Callable, tau: float = 1.3, keep_percent: float = 0.0) -> None:
    by(partial(attend, tau=tau, topk_ratio=keep_percent / 100, token_aug=EXTRA_TOKENS), everywhere=False)(target)


def compiled(method: Method) -> Method:
    """The same under torch.compile, set as ComfyUI's own node sets it."""

    def attach(target: Target) -> None:
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        method.attach(target)
        backend = "inductor" if target.device.type == "cuda" else "eager"
        set_torch_compile_wrapper(target.patcher, backend, options={"guard_filter_fn": without_options})

    return replace(method, attach=attach, only_compiled=True)


def without_options(guards: list) -> list[bool]:
    """Which guards ComfyUI's compiler keeps: none on transformer_options."""
    return ["transformer_options" not in guard.name for guard in guards]


METHODS: dict[str, Method] = {  # the most important first, for runs that end early
    REFERENCE: Method(sdpa(SDPBackend.FLASH_ATTENTION), dense=True),
    NO_ATTENTION: Method(no_attention),
    "sdpa_cudnn": Method(sdpa(SDPBackend.CUDNN_ATTENTION), dense=True),
    "fa3": Method(flash3, dense=True),
    "kitchen_int8": Method(registered("comfy_kitchen_int8"), eight_bits=True),
    "core_sol_1.3": Method(core_sparse("sol-attn", tau=1.3)),
    "ours_int8": Method(ours(int8=True), planned=True),
    "ours_bf16": Method(ours(), planned=True),
    "core_sol_1.0": Method(core_sparse("sol-attn", tau=1.0)),
    "core_sla_10": Method(core_sparse("sla", keep_percent=10.0)),
    "ours_sampler": Method(ours_as_users_do, planned=True, steps=4),
    "sage": Method(sage, eight_bits=True),
    "comfyui": Method(lambda target: None, dense=True),  # what ComfyUI chooses by itself
}
METHODS |= {f"{name}_compiled": compiled(METHODS[name]) for name in ("comfyui", "ours_bf16")}
