"""Nodes for tests of model families: conditioning and latents of any form, and attention by direct calls."""

import importlib
import json
import logging
import sys
import types

import torch


def _tensors(spec, generator, tokens):
    """JSON with tensors: {"shape": [...]} is random, {"ones": [...]}, {"hidden": n} a mask that hides n tokens."""
    if isinstance(spec, list):
        return [_tensors(entry, generator, tokens) for entry in spec]
    if isinstance(spec, dict):
        if set(spec) == {"shape"}:
            return torch.randn(spec["shape"], generator=generator)
        if set(spec) == {"ones"}:
            return torch.ones(spec["ones"])
        if set(spec) == {"hidden"}:
            return (torch.arange(tokens) < tokens - spec["hidden"]).long()[None]
        return {name: _tensors(entry, generator, tokens) for name, entry in spec.items()}
    return spec


class AnyConditioning:
    """A random text of `tokens` tokens, and whatever else a model takes, as JSON."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        number = ("INT", {"default": 1, "min": 1, "max": 2**31})
        return {"required": {"tokens": number, "width": number, "seed": number, "extras": ("STRING", {"default": ""})}}

    def make(self, tokens, width, seed, extras):
        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(1, tokens, width, generator=generator)
        made = _tensors(json.loads(extras), generator, tokens)
        image = made.pop("clip_vision", None)
        if image is not None:
            names = ("penultimate_hidden_states", "last_hidden_state")
            made["clip_vision_output"] = types.SimpleNamespace(**dict.fromkeys(names, image))
        return ([[text, made]],)


class AnyLatent:
    """Empty latents of the given shape; several shapes are several streams."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"shapes": ("STRING", {"default": ""})}}

    def make(self, shapes):
        streams = [torch.zeros(shape) for shape in json.loads(shapes)]
        if len(streams) == 1:
            return ({"samples": streams[0]},)
        from comfy.nested_tensor import NestedTensor

        return ({"samples": NestedTensor(streams)},)


class FirstStream:
    """The video of latents that hold sound too."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"latent": ("LATENT",)}}

    def make(self, latent):
        samples = latent["samples"]
        return ({"samples": samples.unbind()[0] if getattr(samples, "is_nested", False) else samples},)


class DirectAttention:
    """Attention by direct calls, on a sequence described by hand: nothing of the pack's layouts or block numbers. What
    is above the noise level of `start_percent`, or none of the plan's, goes to what was in the slot before.

    `spec`: grid; prefixes, of which one gives the sequence's length; suffix; calls, the layer of each self-attention
    call of a forward in order, null where it is none of the plan's; patterns of each layer's heads.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        start = ("FLOAT", {"default": 0.0})
        return {"required": {"model": ("MODEL",), "spec": ("STRING", {"default": ""}), "start_percent": start}}

    def make(self, model, spec, start_percent):
        model = model.clone()
        options = model.model_options["transformer_options"]
        direct = _Direct(json.loads(spec), start_percent, options.get("optimized_attention_override"))
        options["optimized_attention_override"] = direct.attention
        model.add_wrapper("apply_model", direct.begin)
        model.add_callback("on_cleanup", direct.end)
        return (model,)


class _Direct:
    def __init__(self, spec, start_percent, previous):
        door = next(name for name in sys.modules if name.endswith(".kernels.attention"))
        kernels = door.removesuffix(".attention")
        grid = importlib.import_module(f"{kernels}.grid").TokenGrid
        pattern = importlib.import_module(f"{kernels}.patterns").pattern_from_dict
        sequence_mask = importlib.import_module(f"{kernels}.oracle").sequence_mask
        self.layers, self.number, self.count = spec["calls"], 0, 0
        self.start_percent, self.previous, self.sparse = start_percent, previous, True
        self.masks = {}
        for prefix in spec["prefixes"]:
            made = grid(*spec["grid"], prefix, spec["suffix"])
            rows = [[sequence_mask(pattern(entry), made) for entry in row] for row in spec["patterns"]]
            self.masks[made.tokens] = [torch.stack(row) for row in rows]

    def begin(self, executor, x, t, *args, **kwargs):
        self.number = 0
        self.sparse = float(t.max()) <= executor.class_obj.model_sampling.percent_to_sigma(self.start_percent)
        return executor(x, t, *args, **kwargs)

    def end(self, patcher):
        logging.info("direct plan: %d calls", self.count)
        self.count = 0

    def layer(self, q, k, tokens):
        """Layer whose plan a call follows, None where it is dense."""
        if not self.sparse or q.shape != k.shape or tokens not in self.masks:
            return None
        self.number += 1
        return self.layers[self.number - 1]

    def attention(self, func, q, k, v, *args, **kwargs):
        by_head = kwargs.get("skip_reshape", False)
        heads = args[0] if args else kwargs["heads"]
        tokens = q.shape[2 if by_head else 1]
        layer = self.layer(q, k, tokens)
        if layer is None:
            previous = func if self.previous is None else lambda *a, **kw: self.previous(func, *a, **kw)
            return previous(q, k, v, *args, **kwargs)
        self.count += 1
        if not by_head:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5
        if kwargs.get("mask") is not None:
            scores = scores + kwargs["mask"].double().unsqueeze(1)
        scores = scores.masked_fill(~self.masks[tokens][layer], -torch.inf)
        return (scores.softmax(-1) @ v.double()).to(q.dtype).transpose(1, 2).flatten(2)


class TalkingPatch:
    """The patch of ComfyUI's MultiTalk on the self-attention, without its model."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",)}}

    def make(self, model):
        from comfy.ldm.wan.model_multitalk import MultiTalkGetAttnMapPatch

        model = model.clone()
        model.set_model_attn1_patch(MultiTalkGetAttnMapPatch())
        return (model,)


class Compile:
    """The model compiled as a whole, or each block alone, with ComfyUI's own helper and filter of guards, but without
    the code generator, whose minutes would add nothing: what is baked in is baked in before it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",), "part": (["whole", "blocks"],)}}

    def make(self, model, part):
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        model = model.clone()
        network = model.get_model_object("diffusion_model")
        keys = ["diffusion_model"]
        if part == "blocks":
            lists = {name: getattr(network, name, ()) for name in ("blocks", "double_blocks", "single_blocks")}
            keys = [f"diffusion_model.{name}.{number}" for name in lists for number in range(len(lists[name]))]
        options = {"guard_filter_fn": lambda guards: ["transformer_options" not in guard.name for guard in guards]}
        set_torch_compile_wrapper(model, "aot_eager", options=options, keys=keys)
        return (model,)


NODES = {
    "TestCompile": Compile,
    "TestAnyConditioning": AnyConditioning,
    "TestAnyLatent": AnyLatent,
    "TestFirstStream": FirstStream,
    "TestDirectAttention": DirectAttention,
    "TestTalkingPatch": TalkingPatch,
}
