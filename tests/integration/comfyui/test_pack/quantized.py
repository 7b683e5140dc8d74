"""Weights that are not numbers to multiply with, as GGUF files give them."""

import comfy.ops
import comfy.sd
import folder_paths
import torch


class QuantizedLoader:
    """A diffusion model whose linear layers hold 8-bit integers and a scale per row, and multiply them out per call."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"unet_name": (folder_paths.get_filename_list("diffusion_models"),)}}

    def make(self, unet_name):
        path = folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
        return (comfy.sd.load_diffusion_model(path, model_options={"custom_operations": _QuantizedOps}),)


class _QuantizedOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            weight = state_dict[f"{prefix}weight"].float()
            scale = weight.abs().amax(1, keepdim=True) / 127
            self.weight = torch.nn.Parameter((weight / scale).round().to(torch.int8), requires_grad=False)
            self.register_buffer("scale", scale, persistent=False)
            self.bias = torch.nn.Parameter(state_dict[f"{prefix}bias"].float(), requires_grad=False)

        def forward(self, x):
            weight = self.weight.to(x.dtype) * self.scale.to(x)
            return torch.nn.functional.linear(x, weight, self.bias.to(x.dtype))


NODES = {"TestQuantizedLoader": QuantizedLoader}
