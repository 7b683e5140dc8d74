"""The published models that plans ship for."""

from __future__ import annotations

from dataclasses import dataclass

WAN_720P, HUNYUAN_720P = (21, 45, 80), (33, 45, 80)  # tokens of 720x1280 in 81 and 129 frames


@dataclass(frozen=True)
class Published:
    """One model.

    Attributes:
        family: as plans name it; also the folder of its plans.
        file: name of its plans' files, without preset and ending.
        name: as its makers call it.
        shape: (layers, heads, head_dim).
        grid: token grid that it was measured on, or of its usual video.
    """

    family: str
    file: str
    name: str
    shape: tuple[int, int, int]
    grid: tuple[int, int, int]


PUBLISHED = (
    Published("wan", "wan2.1_1.3b_t2v", "Wan 2.1 1.3B T2V", (30, 12, 128), WAN_720P),
    Published("wan", "wan2.1_14b_t2v", "Wan 2.1 14B T2V", (40, 40, 128), WAN_720P),
    Published("wan", "wan2.1_14b_i2v", "Wan 2.1 14B I2V", (40, 40, 128), WAN_720P),
    Published("wan", "wan2.2_a14b_t2v", "Wan 2.2 A14B T2V", (40, 40, 128), WAN_720P),
    Published("wan", "wan2.2_a14b_i2v", "Wan 2.2 A14B I2V", (40, 40, 128), WAN_720P),
    Published("wan", "wan2.2_5b", "Wan 2.2 5B", (30, 24, 128), (31, 22, 40)),
    Published("hunyuan_video", "hunyuanvideo_t2v", "HunyuanVideo T2V", (60, 24, 128), HUNYUAN_720P),
    Published("hunyuan_video", "hunyuanvideo_i2v", "HunyuanVideo I2V", (60, 24, 128), HUNYUAN_720P),
    Published("hunyuan_video", "hunyuanvideo_1.5", "HunyuanVideo 1.5", (54, 16, 128), (31, 45, 80)),
    Published("cogvideox", "cogvideox_2b", "CogVideoX 2B", (30, 30, 64), (13, 30, 45)),
    Published("cogvideox", "cogvideox_5b", "CogVideoX 5B", (42, 48, 64), (13, 30, 45)),
    Published("cogvideox", "cogvideox_1.5_5b", "CogVideoX 1.5 5B", (42, 48, 64), (11, 48, 85)),
)


def published(file: str) -> Published:
    """The model whose plans' files have this name; KeyError without one."""
    return {model.file: model for model in PUBLISHED}[file]


def of_shape(family: str, shape: tuple[int, int, int]) -> tuple[Published, ...]:
    """All models of a family with these (layers, heads, head_dim)."""
    return tuple(model for model in PUBLISHED if (model.family, model.shape) == (family, shape))
