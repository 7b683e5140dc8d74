"""The published models that plans ship for: numbers of their attention, and what was measured of each."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_vdit.plans.plan.plan import EVERY_SIGMA

WAN_720P, HUNYUAN_720P = (21, 45, 80), (33, 45, 80)  # tokens of 720x1280 in 81 and 129 frames


@dataclass(frozen=True)
class Part:
    """Noise levels of a plan's band, and the measured steps first..end that speak for them (None: from the end of the
    warm-up, to the last)."""

    sigma_high: float
    sigma_low: float
    first: int | None
    end: int | None


@dataclass(frozen=True)
class Published:
    """One model.

    Attributes:
        file: name of its plans, under the family's folder.
        name: as its makers call it.
        shape: (layers, heads, head_dim).
        grid: token grid that it was measured on, or of its usual video.
        densities: its name in the measurements, empty where it has none.
        parts: bands of its plan.
    """

    family: str
    file: str
    name: str
    shape: tuple[int, int, int]
    grid: tuple[int, int, int]
    densities: str = ""
    parts: tuple[Part, ...] = (Part(EVERY_SIGMA, 0.0, None, None),)


def two_experts(boundary: float, step: int) -> tuple[Part, ...]:
    """Wan 2.2: the expert of the noise levels above the boundary runs the measured steps before `step`, the other one
    the others. In the measurements the densities of all heads jump exactly there."""
    return Part(EVERY_SIGMA, boundary, None, step), Part(boundary, 0.0, step, None)


HUNYUAN_T2V = Published(
    "hunyuan_video", "hunyuanvideo_t2v", "HunyuanVideo T2V", (60, 24, 128), HUNYUAN_720P, "hunyuan10_13B_t2v"
)
PRIORS = (
    Published("wan", "wan2.1_1.3b_t2v", "Wan 2.1 1.3B T2V", (30, 12, 128), WAN_720P, "wan_1.3B_t2v"),
    Published("wan", "wan2.1_14b_t2v", "Wan 2.1 14B T2V", (40, 40, 128), WAN_720P, "wan_14B_t2v"),
    Published("wan", "wan2.1_14b_i2v", "Wan 2.1 14B I2V", (40, 40, 128), WAN_720P, "wan_14B_i2v"),
    Published(
        *("wan", "wan2.2_a14b_t2v", "Wan 2.2 A14B T2V", (40, 40, 128), WAN_720P, "wan22_A14B_t2v"),
        parts=two_experts(0.875, 12),
    ),
    Published(
        *("wan", "wan2.2_a14b_i2v", "Wan 2.2 A14B I2V", (40, 40, 128), WAN_720P, "wan22_A14B_i2v"),
        parts=two_experts(0.9, 10),
    ),
    Published(
        *("hunyuan_video", "hunyuanvideo_i2v", "HunyuanVideo I2V", (60, 24, 128), HUNYUAN_720P, "hunyuan10_13B_i2v")
    ),
)
"""Those of which the density of each head was measured, and nothing else."""

COGVIDEOX_2B = Published("cogvideox", "cogvideox_2b", "CogVideoX 2B", (30, 30, 64), (13, 30, 45))
UNMEASURED = (
    Published("wan", "wan2.2_5b", "Wan 2.2 5B", (30, 24, 128), (31, 22, 40)),
    Published("hunyuan_video", "hunyuanvideo_1.5", "HunyuanVideo 1.5", (54, 16, 128), (31, 45, 80)),
    Published("cogvideox", "cogvideox_5b", "CogVideoX 5B", (42, 48, 64), (13, 30, 45)),
    Published("cogvideox", "cogvideox_1.5_5b", "CogVideoX 1.5 5B", (42, 48, 64), (11, 48, 85)),
)
"""Those of which nothing was."""
