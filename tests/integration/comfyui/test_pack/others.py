"""What other packs and newer versions of ComfyUI do to attention, as far as ours has to live with it.

All are stand-ins: they behave as the nodes they name do towards other nodes, and compute something simple.
"""

import functools
import logging
import unittest.mock

import comfy.ldm.wan.model as wan
import torch
from comfy.ldm.modules.attention import AttentionTensorContainer, optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper


class _ModelNode:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)
    INPUTS = {}  # noqa: RUF012 - ComfyUI's style

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",), **cls.INPUTS}}

    def make(self, model, **options):
        model = model.clone()
        self.change(model, **options)
        return (model,)


def marked_attention(func, *args, **kwargs):
    """Attention whose results differ a little from ComfyUI's, as Sage's do."""
    return func(*args, **kwargs) * 1.01


class MarkedAttention(_ModelNode):
    """An attention of its own in ComfyUI's slot for one, as ModelAttentionBackend and KJNodes' Sage node do it."""

    def change(self, model):
        model.model_options["transformer_options"]["optimized_attention_override"] = marked_attention


class ObjectPatchedAttention(_ModelNode):
    """The forward of some blocks' self-attention as object patches, as KJNodes' memory-efficient Sage nodes do it."""

    INPUTS = {"blocks": ("INT", {"default": 4})}  # noqa: RUF012

    def change(self, model, blocks):
        for number, block in enumerate(model.get_model_object("diffusion_model").blocks[:blocks]):
            model.add_object_patch(f"diffusion_model.blocks.{number}.self_attn.forward", _own_forward(block.self_attn))


def own_loop(self, x, t, context, clip_fea=None, freqs=None, transformer_options=None, **kwargs):
    """Wan's forward with a loop over the blocks that honours replacements, but hands blocks no transformer_options."""
    x = self.patch_embedding(x.float()).to(x.dtype)
    grid_sizes = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    time = wan.sinusoidal_embedding_1d(self.freq_dim, t.flatten()).to(dtype=x.dtype)
    e = self.time_embedding(time).reshape(t.shape[0], -1, self.dim)
    e0 = self.time_projection(e).unflatten(2, (6, self.dim))
    context = self.text_embedding(context)
    replaced = (transformer_options or {}).get("patches_replace", {}).get("dit", {})
    for number, block in enumerate(self.blocks):

        def run(args, block=block):
            return {"img": block(args["img"], context=args["txt"], e=args["vec"], freqs=args["pe"])}

        args = {"img": x, "txt": context, "vec": e0, "pe": freqs}
        around = replaced.get(("double_block", number))
        x = (run(args) if around is None else around(args, {"original_block": run}))["img"]
    return self.unpatchify(self.head(x, e), grid_sizes)


class OwnLoop(_ModelNode):
    """A loop of its own over the blocks, as MagCache, TeaCache and ComfyUI-NAG have it."""

    def change(self, model):
        inner = model.get_model_object("diffusion_model")

        def wrapper(function, given):
            with unittest.mock.patch.object(inner, "forward_orig", own_loop.__get__(inner)):
                return function(given["input"], given["timestep"], **given["c"])

        model.set_model_unet_function_wrapper(wrapper)


def _own_forward(attention):
    def frugal_forward(x, freqs, transformer_options=None):
        q, k = (wan.apply_rope1(norm(layer(x)).unflatten(-1, (attention.num_heads, -1)), freqs)
                for norm, layer in ((attention.norm_q, attention.q), (attention.norm_k, attention.k)))
        v = attention.v(x).unflatten(-1, (attention.num_heads, -1))
        out = torch.nn.functional.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)))
        return attention.o(out.transpose(1, 2).flatten(2))  # fmt: skip

    return frugal_forward


class ModulePatchedAttention(_ModelNode):
    """Another function in the place of the one that Wan's module calls, during a run, as RadialAttn does it."""

    def change(self, model):
        model.add_wrapper("outer_sample", _with_function(_monkey_attention))


def _monkey_attention(q, k, v, heads, **kwargs):
    kwargs.pop("transformer_options", None)
    return optimized_attention(q, k, v, heads, **kwargs)


def _contained_attention(q, k, v, *args, **kwargs):
    return optimized_attention(*(AttentionTensorContainer(x) for x in (q, k, v)), *args, **kwargs)


class ContainedAttention(_ModelNode):
    """q, k, v in containers, as Wan gives them from ComfyUI 0.40 on."""

    def change(self, model):
        model.add_wrapper("outer_sample", _with_function(_contained_attention))


def _with_function(function):
    def outer_sample(executor, *args, **kwargs):
        plain, wan.optimized_attention = wan.optimized_attention, function
        try:
            return executor(*args, **kwargs)
        finally:
            wan.optimized_attention = plain

    return outer_sample


class ModelSparseAttention(_ModelNode):
    """Stand-in for ComfyUI's `Model Sparse Attention`, which this version lacks.

    Like it, it chains what is in the slot, puts itself on top again before every step, and leaves short sequences to
    what it chained. A line in the log counts how often it went on top.
    """

    INPUTS = {"min_tokens": ("INT", {"default": 12288, "max": 10**9})}  # noqa: RUF012

    def change(self, model, min_tokens):
        installed = []

        def on_top(options):
            previous = options.get("optimized_attention_override")
            if previous in installed:
                return

            def sol_attention(func, q, k, v, *args, **kwargs):
                if q.shape == k.shape and q.shape[1] >= min_tokens:
                    return func(q, k, v, *args, **kwargs) * 1.02
                dense = func if previous is None else lambda *a, **kw: previous(func, *a, **kw)
                return dense(q, k, v, *args, **kwargs)

            installed.append(sol_attention)
            options["optimized_attention_override"] = sol_attention

        def cleanup(patcher):
            logging.info("stand-in for Model Sparse Attention: on top %d times", len(installed))

        on_top(model.model_options["transformer_options"])
        model.add_callback("on_prepare_state", lambda _, timestep, options: on_top(options["transformer_options"]))
        model.add_callback("on_cleanup", cleanup)


def _logged(reset):
    """`torch._dynamo.reset` that leaves a line in the log."""

    @functools.wraps(reset)
    def logged():
        logging.info("compiled code was dropped")
        reset()

    return reset if hasattr(reset, "__wrapped__") else logged


class CompileModel(_ModelNode):
    """TorchCompileModel with the compilers that need none: the same wrapper and the same dropped guards."""

    INPUTS = {"backend": (["eager", "aot_eager"],)}  # noqa: RUF012

    def make(self, model, backend):
        torch._dynamo.reset = _logged(torch._dynamo.reset)
        model = model.clone(disable_dynamic=True)
        keep = {"guard_filter_fn": lambda entries: ["transformer_options" not in entry.name for entry in entries]}
        set_torch_compile_wrapper(model=model, backend=backend, options=keep)
        return (model,)


NODES = {
    "TestMarkedAttention": MarkedAttention,
    "TestObjectPatchedAttention": ObjectPatchedAttention,
    "TestOwnLoop": OwnLoop,
    "TestModulePatchedAttention": ModulePatchedAttention,
    "TestContainedAttention": ContainedAttention,
    "TestModelSparseAttention": ModelSparseAttention,
    "TestCompileModel": CompileModel,
}
