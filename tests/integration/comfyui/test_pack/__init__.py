"""Nodes for tests alone: conditioning out of the small Wan's own words, instead of a text encoder."""

import itertools

import torch

from . import direct, family_nodes, others, plugged_card, quantized, ray_actors, several_gpus, text_encoders
from .small_wan.video import encode, random_scene, to_video
from .trouble import TROUBLE_NODES


class SceneConditioning:
    """Conditioning of the scene that a seed draws, at least `tokens` long; seed -1 is the empty prompt."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        seed = ("INT", {"default": 0, "min": -1, "max": 2**31})
        return {"required": {"seed": seed}, "optional": {"tokens": ("INT", {"default": 0})}}

    def make(self, seed, tokens=0):
        context = encode([random_scene(torch.Generator().manual_seed(max(seed, 0)))])
        context = torch.nn.functional.pad(context, (0, 0, 0, max(0, tokens - context.shape[1])))
        return ([[context * (seed >= 0), {}]],)


class LatentToFrames:
    """RGB frames of the small Wan's latents; they need no VAE."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"latent": ("LATENT",)}}

    def make(self, latent):
        return ((to_video(latent["samples"])[0].movedim(0, -1) + 1) / 2,)


class TroubleAtStep:
    """A MODEL with which something goes wrong in the second forward of every run.

    `raise`: the forward fails. `replace`: another attention takes the place of the one that is there.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",), "trouble": (["raise", "replace"],)}}

    def make(self, model, trouble):
        model = model.clone()
        calls = itertools.count()

        def sampler_sample(executor, *args, **kwargs):
            nonlocal calls
            calls = itertools.count()
            return executor(*args, **kwargs)

        def predict_noise(executor, *args, **kwargs):
            second = next(calls) == 1
            if second and trouble == "raise":
                raise RuntimeError("trouble was asked for")
            if second and trouble == "replace":
                args[2]["transformer_options"]["optimized_attention_override"] = others.marked_attention
            return executor(*args, **kwargs)

        model.add_wrapper("sampler_sample", sampler_sample)
        model.add_wrapper("predict_noise", predict_noise)
        return (model,)


NODES = {
    **TROUBLE_NODES,
    **family_nodes.NODES,
    "TestSceneConditioning": SceneConditioning,
    "TestLatentToFrames": LatentToFrames,
    "TestTroubleAtStep": TroubleAtStep,
    "TestDirectPlan": direct.DirectPlan,
    **others.NODES,
    **plugged_card.NODES,
    **quantized.NODES,
    **ray_actors.NODES,
    **several_gpus.NODES,
}
text_encoders.install()


def __getattr__(name: str) -> object:
    """What ComfyUI asks for. ComfyUI Manager reads whole repositories for assignments to this name, and would take the
    test nodes for the pack's."""
    if name == "NODE_CLASS_MAPPINGS":
        return NODES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
