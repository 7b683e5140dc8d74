"""All that `end_to_end.py` knows of ComfyUI: its models with random weights, and sampling by its own samplers.

The benchmark runs in one process with ComfyUI's modules, without its server. `start` comes before everything else.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from sparse_vdit.kernels.backends.triton_backend import INTERPRETED
from torch import Tensor, nn

from benchmarks.models.whole_models import WholeModel

MIDDLE = 0.5  # part of the noise schedule at which forwards are measured
BLOCKS = ("blocks", "double_blocks", "single_blocks")  # of all the families' models
SEED = 7
KEY = "sparse_vdit_benchmark"


def start(comfyui: Path, device: str) -> None:
    """Make the modules of the ComfyUI in a folder importable, all weights staying on one device."""
    command, sys.argv = sys.argv, [sys.argv[0], "--cpu" if device == "cpu" else "--highvram"]
    sys.path.insert(0, str(comfyui))
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = command


def build(model: WholeModel, device: torch.device) -> object:
    """ComfyUI's MODEL of a model, with random weights that were made on the device."""
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, model.kind)(model.settings)
    in_16_bits = device.type == "cuda" or INTERPRETED  # our kernels take nothing else
    config.set_inference_dtype(torch.bfloat16 if in_16_bits else torch.float32, None)
    whole = config.get_model({}, "", device=torch.device("meta"))
    if whole.diffusion_model._buffers or any(part._buffers for part in whole.diffusion_model.modules()):
        raise ValueError(f"{model.kind} keeps buffers beside its weights, which this script cannot fill")
    whole.diffusion_model.to_empty(device=device)
    fill(whole.diffusion_model, device)
    whole.device = device  # where ComfyUI takes its weights to be
    return comfy.model_patcher.ModelPatcher(whole.to(device), load_device=device, offload_device=device)


@torch.no_grad()
def fill(module: nn.Module, device: torch.device) -> None:
    """Random weights that keep activations of order 1 and let attention matter, the same ones every time."""
    generator = torch.Generator(device).manual_seed(SEED)
    for name, value in module.named_parameters():
        if value.ndim < 2:
            value.normal_(0, 0.02, generator=generator)
            if name.endswith("weight"):
                value.add_(1)
        elif "modulation" in name:
            value.normal_(0, 0.3, generator=generator)
        else:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)


@contextlib.contextmanager
def first_blocks_alone(diffusion_model: nn.Module) -> Iterator[None]:
    """A model cut down to the first of its blocks of each kind, as long as this lasts."""
    whole = {name: getattr(diffusion_model, name) for name in BLOCKS if hasattr(diffusion_model, name)}
    for name, blocks in whole.items():
        setattr(diffusion_model, name, blocks[:1])
    try:
        yield
    finally:
        for name, blocks in whole.items():
            setattr(diffusion_model, name, blocks)


class Probe:
    """Around a MODEL's forwards: seconds and peak memory of each, and the last output.

    Args:
        short: whether the first forward is of the first blocks alone, as a warm-up.
        calls: what a method notes in a forward; emptied before each.

    Attributes:
        seconds: of each forward.
        peaks: most bytes allocated during each, weights and all; None without a GPU.
        output: what the last forward said of the video, the model's own output up to a factor: float32.
    """

    def __init__(self, device: torch.device, short: bool = False, calls: list | None = None):
        self.device, self.seconds, self.peaks = device, [], []
        self.short, self.calls = short, [] if calls is None else calls
        self.output: Tensor | None = None

    def attach(self, patcher: object) -> None:
        """Look on at a cloned MODEL, from outside of all wrappers that it gets later."""
        from comfy.patcher_extension import WrappersMP

        patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self)

    def __call__(self, executor: Callable, x: Tensor, t: Tensor, *args: object, **kwargs: object) -> Tensor:
        """One forward of `BaseModel.apply_model`."""
        on_gpu, model = self.device.type == "cuda", executor.class_obj
        cut = first_blocks_alone(model.diffusion_model) if self.short and not self.seconds else contextlib.nullcontext()
        self.calls.clear()
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        with cut:
            denoised = executor(x, t, *args, **kwargs)
        if on_gpu:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - begin)
        self.peaks.append(torch.cuda.max_memory_allocated() if on_gpu else None)
        # what is denoised is linear in the model's output: without it, it is the noisy video alone
        without = model.model_sampling.calculate_denoised(t, torch.zeros_like(x), x)
        self.output = denoised.float() - without.float()
        return denoised


class Sampling:
    """Noise and a prompt of random numbers, the same for every method, sampled as ComfyUI's nodes do."""

    def __init__(self, model: WholeModel, device: torch.device):
        generator = torch.Generator().manual_seed(SEED)
        self.noise = torch.randn(1, *model.latent, generator=generator)
        tokens, channels = model.text
        text = torch.randn(1, tokens, channels, generator=generator)
        pooled = torch.randn(1, model.pooled, generator=generator) if model.pooled else None
        self.device, self.positive = device, [[text, {"pooled_output": pooled}]]

    def forwards(self, patcher: object, count: int) -> None:
        """One run of so many forwards on the same noisy video: steps of Euler to the noise level that is there, and one
        from there to the end. What a method makes once for a run is made in the first."""
        import comfy.sample
        import comfy.samplers

        sigma = float(patcher.get_model_object("model_sampling").percent_to_sigma(MIDDLE))
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([sigma] * count + [0.0])
        with quiet():
            comfy.sample.sample_custom(
                patcher, self.noise, 1.0, sampler, sigmas, self.positive, self.positive, torch.zeros_like(self.noise),
                disable_pbar=True, seed=SEED,
            )  # fmt: skip

    def steps(self, patcher: object, count: int) -> float:
        """Seconds of a whole KSampler run of so many steps without a negative prompt."""
        import comfy.sample

        begin = time.perf_counter()
        with quiet():
            comfy.sample.sample(
                patcher, self.noise, count, 1.0, "euler", "simple", self.positive, self.positive,
                torch.zeros_like(self.noise), disable_pbar=True, seed=SEED,
            )  # fmt: skip
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def quiet() -> contextlib.AbstractContextManager:
    """No gradients, as in ComfyUI's own executor."""
    return torch.inference_mode()


def layout_of(patcher: object, model: WholeModel) -> tuple[object, tuple[int, int, int, int, int]]:
    """The pack's family of a model, and its token layout for the video: three axes, tokens before and after."""
    from sparse_vdit.nodes.host.core.fallback import Dense
    from sparse_vdit.nodes.host.models import detect, token_grid

    diffusion_model = patcher.model.diffusion_model
    family = detect(diffusion_model)
    if isinstance(family, Dense):
        raise ValueError(f"the pack does not know this model: {family}")
    x, context = (torch.empty(1, *shape, device="meta") for shape in (model.latent, model.text))
    grid = token_grid(diffusion_model, family, {"x": x, "context": context})
    if isinstance(grid, Dense):
        raise ValueError(f"the pack does not know this model's tokens: {grid}")
    return family, tuple(grid)
