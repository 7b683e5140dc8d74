"""What was measured of the published models' attention."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_vdit.plans.plan.plan import EVERY_SIGMA
from sparse_vdit.plans.plan.published import PUBLISHED, Published, published


@dataclass(frozen=True)
class Part:
    """Noise levels of a plan's band, and the measured steps first..end that speak for them (None: from the end of the
    warm-up, to the last)."""

    sigma_high: float
    sigma_low: float
    first: int | None
    end: int | None


DENSITIES = {
    "wan2.1_1.3b_t2v": "wan_1.3B_t2v",
    "wan2.1_14b_t2v": "wan_14B_t2v",
    "wan2.1_14b_i2v": "wan_14B_i2v",
    "wan2.2_a14b_t2v": "wan22_A14B_t2v",
    "wan2.2_a14b_i2v": "wan22_A14B_i2v",
    "hunyuanvideo_t2v": "hunyuan10_13B_t2v",
    "hunyuanvideo_i2v": "hunyuan10_13B_i2v",
}
"""Names of the models in SVOO's measurements of each head's density, by the name of their plans' files."""


def _two_experts(boundary: float, step: int) -> tuple[Part, ...]:
    """Wan 2.2: the expert of the noise levels above the boundary runs the measured steps before `step`, the other one
    the others. In the measurements the densities of all heads jump exactly there."""
    return Part(EVERY_SIGMA, boundary, None, step), Part(boundary, 0.0, step, None)


_ONE_BAND = (Part(EVERY_SIGMA, 0.0, None, None),)
_TWO_BANDS = {"wan2.2_a14b_t2v": _two_experts(0.875, 12), "wan2.2_a14b_i2v": _two_experts(0.9, 10)}


def parts_of(model: Published) -> tuple[Part, ...]:
    """Bands of a model's plan."""
    return _TWO_BANDS.get(model.file, _ONE_BAND)


HUNYUAN_T2V = published("hunyuanvideo_t2v")
"""Windows of its heads were searched by STA, besides their densities."""

COGVIDEOX_2B = published("cogvideox_2b")
"""Which of its heads can be sparse was found by SpargeAttn's tuning, and nothing else."""

PRIORS = tuple(model for model in PUBLISHED if model.file in DENSITIES and model != HUNYUAN_T2V)
"""Those of which the density of each head was measured, and nothing else."""

UNMEASURED = tuple(model for model in PUBLISHED if model.file not in DENSITIES and model != COGVIDEOX_2B)
"""Those of which nothing was."""
