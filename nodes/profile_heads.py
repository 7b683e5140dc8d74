"""Profile Heads: samples a video and measures on the way what each pattern would cost each head."""

from __future__ import annotations

import copy
import itertools
import logging

import comfy.model_management
import comfy.sample
import comfy.utils
import comfyui_version
import latent_preview
from comfy_api.latest import io
from torch import Tensor

from ..plans.profile.candidates import default_candidates
from ..plans.profile.profile import Profile
from ..plans.profile.profiler import Profiler
from .host.core import fallback
from .host.core.fallback import Dense
from .host.hooks.install import install
from .host.hooks.sampling import DEFAULT_START, Sampling
from .host.library.found import SIGMA_SLACK
from .host.models import describe
from .host.policies.profile import ProfilePolicy
from .host.session.run import Run
from .host.ui.report import show_on_node
from .sockets import CATEGORY, ProfileType, paper_inputs

DENSE, SEQUENTIAL = "dense", "sequential"
LOG = logging.getLogger("sparse_vdit")


class ProfileHeads(io.ComfyNode):
    """SamplerCustomAdvanced with a profiler inside."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTProfileHeads",
            display_name="Sparse-vDiT Profile Heads",
            category=CATEGORY,
            description="Generates a video like SamplerCustomAdvanced and measures the error of each pattern in each "
            "attention head. Run it once per model, at the size you use most. Search Sparse Plan then makes a plan.",
            search_aliases=["profile", "calibrate", "measure heads", "make plan"],
            inputs=[
                io.Noise.Input("noise", tooltip="As for SamplerCustomAdvanced."),
                io.Guider.Input("guider", tooltip="The model to measure, and its prompt."),
                io.Sampler.Input("sampler", tooltip="As for SamplerCustomAdvanced."),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="As for SamplerCustomAdvanced. For Wan 2.2, use one Profile Heads for each of the two "
                    "models, with its part of the steps from SplitSigmas.",
                ),
                io.Latent.Input("latent_image", tooltip="The empty latent, or the output of the sampler before."),
                ProfileType.Input(
                    "previous_profile",
                    optional=True,
                    tooltip="Optional. Earlier measurements to add to: of another prompt, or of the other Wan 2.2 "
                    "model. Flow and video size must be the same.",
                ),
                io.Int.Input(
                    "rows",
                    default=256,
                    min=16,
                    max=8192,
                    step=16,
                    tooltip="How many tokens of each head are measured. More is slower and more exact.",
                ),
                io.Int.Input(
                    "bands",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="Number of noise ranges, each with its own patterns; at most one for each measured step. "
                    "More ranges follow the model more closely, but each is measured in fewer steps.",
                ),
                io.DynamicCombo.Input(
                    "flow",
                    tooltip="dense: measures the unchanged video. sequential: Algorithm 1 of the paper; each layer is "
                    "measured with the layers before it already sparse.",
                    options=[
                        io.DynamicCombo.Option(DENSE, []),
                        io.DynamicCombo.Option(SEQUENTIAL, paper_inputs()),
                    ],
                ),
                io.String.Input(
                    "prompt_label",
                    default="",
                    optional=True,
                    tooltip="A note saved with the measurements, for example the prompt. It does not change the video.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=DEFAULT_START,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="The same value as on Sparse-vDiT Patch. The dense start is not measured.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The generated video's latent."),
                ProfileType.Output(display_name="profile", tooltip="For Search Sparse Plan."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        noise: object,
        guider: object,
        sampler: object,
        sigmas: object,
        latent_image: dict,
        rows: int,
        bands: int,
        flow: dict,
        prompt_label: str = "",
        start_percent: float = DEFAULT_START,
        previous_profile: Profile | None = None,
    ) -> io.NodeOutput:
        """Latent and profile.

        Raises:
            ValueError: a model that is not known, no call that could be measured, or a previous profile that was
                measured otherwise; says why, the last at the first step.
        """
        node_id = cls.hidden.unique_id
        policies: list[ProfilePolicy] = []

        def select(sampling: Sampling) -> ProfilePolicy:
            model, family = sampling.model, sampling.family
            layers, heads, head_dim = family.shape(model)
            choice = {name: flow[name] for name in ("lam", "epsilon") if name in flow}
            profiler = Profiler(
                family.name,
                describe(model, family),
                layers,
                heads,
                head_dim,
                default_candidates(),
                noise_bands(sigmas, bands, sampling.percent_to_sigma(start_percent)),
                rows=rows,
                flow=flow["flow"],
                seed=noise.seed % 2**31,
                prompts=(prompt_label,) if prompt_label else (),
                versions={"comfyui": comfyui_version.__version__},
                previous=previous_profile,
                maps=True,
                **choice,
            )
            policies.append(ProfilePolicy(profiler, model, family))
            return policies[-1]

        def finish(run: Run | Dense) -> None:
            if isinstance(run, Dense):
                raise ValueError(f"heads cannot be measured: {run}")
            text = f"measured {run.policy.observed} calls in {run.policy.seconds:.1f} s"
            other = {why: n for why, n in run.stats.total().self_attention().items() if why != fallback.PROFILING}
            text += "".join(f", {why} {count}" for why, count in other.items())
            LOG.info("Sparse-vDiT: %s", text)
            show_on_node(text, node_id)
            if not run.policy.observed:
                raise ValueError(f"no attention call could be measured: {text}")

        guider = copy.copy(guider)
        guider.model_patcher = guider.model_patcher.clone()
        guider.model_options = guider.model_patcher.model_options
        install(guider.model_patcher, select, finish)
        latent = sample(noise, guider, sampler, sigmas, latent_image)
        return io.NodeOutput(latent, policies[-1].profiler.profile())


def noise_bands(sigmas: Tensor, count: int, start: float) -> tuple[tuple[float, float], ...]:
    """(sigma_high, sigma_low) of `count` parts with equally many steps of the sampled schedule from noise level `start`
    on, one for each step where there are fewer. Where the schedule begins above it, the first part begins there, so
    that a plan serves schedules of other steps.

    Raises:
        ValueError: no step comes after noise level `start`.
    """
    start *= 1 + SIGMA_SLACK
    sampled = [sigma for sigma in sigmas[:-1].tolist() if sigma <= start]
    steps = len(sampled)
    if not steps:
        raise ValueError(
            f"0 of {len(sigmas) - 1} sampled steps come after start_percent (noise level {start:.3f}): every step lies "
            "in the dense start, use a smaller start_percent or more steps"
        )
    count = min(count, steps)
    ends = [start if float(sigmas[0]) > start else sampled[0], *sampled[1:], float(sigmas[-1])]
    edges = [ends[round(part * steps / count)] for part in range(count + 1)]
    return tuple(itertools.pairwise(edges))


def sample(noise: object, guider: object, sampler: object, sigmas: object, latent_image: dict) -> dict:
    """What SamplerCustomAdvanced does: latent in, sampled latent out."""
    latent = latent_image.copy()
    samples = comfy.sample.fix_empty_latent_channels(
        guider.model_patcher,
        latent["samples"],
        latent.pop("downscale_ratio_spacial", None),
        latent.pop("downscale_ratio_temporal", None),
    )
    latent["samples"] = samples
    callback = latent_preview.prepare_callback(guider.model_patcher, sigmas.shape[-1] - 1)
    result = guider.sample(
        noise.generate_noise(latent),
        samples,
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=noise.seed,
    )
    latent["samples"] = result.to(comfy.model_management.intermediate_device())
    return latent
