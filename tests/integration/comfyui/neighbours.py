"""Nodes from MODEL to MODEL that people put beside the pack's; those of the tests stand for what is not at hand."""

from __future__ import annotations

from .prompts import node

EASY_CACHE = node("EasyCache", reuse_threshold=3.0, start_percent=0.3, end_percent=1.0, verbose=False)
LAZY_CACHE = node("LazyCache", reuse_threshold=3.0, start_percent=0.3, end_percent=1.0, verbose=False)
BACKEND = node("ModelAttentionBackend", attention="pytorch attention")
SHIFT = node("ModelSamplingSD3", shift=3.0)
INDUCTOR = node("TorchCompileModel", backend="inductor")

MARKED = node("TestMarkedAttention")
COMPILED = node("TestCompileModel", backend="eager")


def lora(file: str) -> dict:
    """A LoRA at full strength."""
    return node("LoraLoaderModelOnly", lora_name=f"{file}.safetensors", strength_model=1.0)


WINDOWS = node(
    "WanContextWindowsManual", context_length=9, context_overlap=4, context_schedule="standard_static",
    context_stride=1, closed_loop=False, fuse_method="pyramid", freenoise=True, retain_first_frame=False,
    split_conds_to_windows=False,
)  # fmt: skip
