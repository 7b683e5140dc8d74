"""Model families in ComfyUI: what each is given, and where its tokens lie, written by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from sparse_vdit.kernels.patterns import Dense, Diagonal, MultiDiagonal, Pattern, VerticalStripe
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Band, Plan, Provenance
from sparse_vdit.plans.profile.candidates import FIRST_FRAME

from .prompts import ksampler, node, patch

STEPS = 2
HEADS = 2
GRID = (5, 7, 9)
VIDEO = [1, 16, 5, 13, 17]  # padded to 5x7x9 tokens: two full query tiles and a ragged end
EVEN = [1, 16, 5, 14, 18]

ROWS: tuple[tuple[Pattern, ...], ...] = (
    (Diagonal(0), MultiDiagonal(0.2, 0.2)),
    (Diagonal(1), Dense()),
    (VerticalStripe((FIRST_FRAME,)), Diagonal(0, 0.3, 0.3)),
)
"""Patterns of the layers in turn: no layer runs what its neighbour does, so that a wrong number shows."""


@dataclass(frozen=True)
class Case:
    """One model in one use.

    Attributes:
        file: checkpoint that `family_models.py` writes.
        latents: shapes of the empty latents, several where the model also makes sound.
        texts: text tokens of cond and uncond.
        width: channels of the text.
        extras: what else the conditioning holds, as `TestAnyConditioning` takes it.
        before: tokens before the video besides the text, which counts only where `text_first` is set.
        calls: layer of each self-attention call of a forward in order, None where no plan is about it.
        rows: patterns of the heads of the layers in turn.
    """

    name: str
    family: str
    file: str
    latents: tuple[list[int], ...] = (VIDEO,)
    texts: tuple[int, int] = (11, 6)
    width: int = 4096
    extras: dict = field(default_factory=dict)
    grid: tuple[int, int, int] = GRID
    before: int = 0
    after: int = 0
    text_first: bool = False
    heads: int = HEADS
    head_dim: int = 128
    calls: tuple[int | None, ...] = (0, 1, 2)
    rows: tuple[tuple[Pattern, ...], ...] = ROWS

    @property
    def layers(self) -> int:
        """Layers that a plan is about."""
        return max(layer for layer in self.calls if layer is not None) + 1

    @property
    def dense(self) -> int:
        """Calls of a forward that are reported dense: those of VACE's own blocks to what is as long as the video.
        Cross-attention of the main blocks is not reported."""
        if "vace" not in self.file:
            return 0
        return self.calls.count(None) - (self.layers if 315 in self.texts else 0)

    @property
    def patterns(self) -> list[tuple[Pattern, ...]]:
        """Of each layer's heads: the rows in turn through the layers, each in turn through the heads."""
        rows = (self.rows[layer % len(self.rows)] for layer in range(self.layers))
        return [tuple(islice(cycle(row), self.heads)) for row in rows]

    def plan(self) -> Plan:
        """The sparse plan."""
        flat = tuple(dict.fromkeys(pattern for row in self.patterns for pattern in row))
        bands = (Band(EVERY_SIGMA, 0.0, tuple(tuple(map(flat.index, row)) for row in self.patterns)),)
        return Plan(self.family, self.layers, self.heads, self.head_dim, GRID, flat, bands, "calibrate", Provenance())

    def dense_plan(self) -> Plan:
        """All heads dense."""
        return replace(self, rows=((Dense(),),)).plan()

    def spec(self) -> str:
        """What `TestDirectAttention` is told."""
        prefixes = [self.before + (text if self.text_first else 0) for text in self.texts]
        rows = [[pattern.to_dict() for pattern in row] for row in self.patterns]
        return json.dumps(
            {"grid": self.grid, "prefixes": prefixes, "suffix": self.after, "calls": self.calls, "patterns": rows}
        )

    def base(self) -> dict:
        """Model, both conditionings and the latent."""
        made = {
            "model": node("UNETLoader", unet_name=f"{self.file}.safetensors", weight_dtype="default"),
            "latent": node("TestAnyLatent", shapes=json.dumps(self.latents)),
        }
        for seed, (name, tokens) in enumerate(zip(("positive", "negative"), self.texts, strict=True), 1):
            extras = json.dumps(self.extras)
            made[name] = node("TestAnyConditioning", tokens=tokens, width=self.width, seed=seed, extras=extras)
        return made

    def direct(self, start_percent: float = 0.0) -> dict:
        """Node that runs the sparse plan by direct calls."""
        return node("TestDirectAttention", model=("model", 0), spec=self.spec(), start_percent=start_percent)

    def sampled(self, nodes: dict, model: str, cfg: float = 3.0) -> dict:
        """The workflow: `nodes` beside the base, sampled with the model that node `model` gives."""
        video = node("TestFirstStream", latent=("ksampler", 0))
        return {**self.base(), **nodes, "ksampler": ksampler((model, 0), STEPS, cfg), "sampler": video}

    def patched(self, plan: str, **options: object) -> dict:
        """The patch node with the user's plan of this name."""
        load = node("SparseVDiTLoadPlan", plan_name=f"user/{plan}")
        options = {"backend": "torch", "start_percent": 0.0, **options}
        return self.sampled({"plan": load, "patch": patch(("plan", 0), **options)}, "patch")


POSE = {"pose_video_latent": {"shape": [1, 16, 4, 14, 18]}}
POOLED = {"pooled_output": {"shape": [1, 768]}}
HUNYUAN = {
    **{"family": "hunyuan_video", "file": "hunyuan", "latents": (EVEN,), "width": 96, "extras": POOLED},
    **{"text_first": True, "calls": (0, 1, 2, 3, 4)},
}
COG = {"family": "cogvideox", "width": 96, "text_first": True, "head_dim": 64}
IMAGE = {"clip_vision": {"shape": [1, 257, 1280]}}
FIRST_IMAGE = {"concat_latent_image": {"shape": VIDEO}}
TWO_IMAGES = {"concat_latent_image": {"shape": [1, 32, *VIDEO[2:]]}}
CAMERA = {"camera_conditions": {"shape": [1, 24, 5, 8 * 14, 8 * 18]}}
H3_VIDEO, H3_SOUND = [1, 24, 5, 13, 17], [1, 32, 2, 11]
H3 = {
    **{"family": "minimax_h3", "file": "minimax_h3", "latents": (H3_VIDEO, H3_SOUND), "width": 96},
    **{"text_first": True, "before": 22},
}
KEYFRAME = {
    **{"resolved_frame_index": 0, "latent": {"shape": [1, 24, 1, 14, 18]}},
    "audio_latent": {"shape": [1, 32, 2, 3]},
}
LTX = {"family": "ltx", "head_dim": 64}

SPARSE = (
    Case("wan2.1 t2v", "wan", "wan_t2v"),
    Case("wan2.1 i2v", "wan", "wan_i2v", extras={**IMAGE, **FIRST_IMAGE}),
    Case("wan2.2 i2v, no clip vision", "wan", "wan22_i2v", extras=FIRST_IMAGE),
    Case("wan2.2 5b", "wan", "wan_5b", latents=([1, 48, 5, 13, 17],)),
    Case(
        "wan fun control, reference image",
        *("wan", "wan_t2v"),
        extras={"reference_latents": [{"shape": [1, 16, 1, 14, 18]}]},
        before=63,
    ),
    Case(
        "wan context latents",
        *("wan", "wan_t2v"),
        extras={"context_latents": [{"shape": [1, 16, 1, 13, 17]}, {"shape": [1, 16, 2, 9, 12]}]},
        after=63 + 60,
    ),
    Case("wan phantom", "wan", "wan_t2v", extras={"time_dim_concat": {"shape": [1, 16, 2, 13, 17]}}, grid=(7, 7, 9)),
    Case("wan vace", "wan", "wan_vace", latents=(EVEN,), calls=(0, None, 1, 2, None, 3)),
    Case(
        "wan vace, two contexts",
        *("wan", "wan_vace"),
        latents=(EVEN,),
        extras={"vace_frames": [{"shape": [1, 32, *EVEN[2:]]}] * 2, "vace_mask": [{"shape": [1, 64, *EVEN[2:]]}] * 2},
        calls=(0, None, None, 1, 2, None, None, 3),
    ),
    Case("wan, text as long as the video", "wan", "wan_t2v", texts=(315, 315), calls=(0, None, 1, None, 2, None)),
    Case(
        "wan vace, text as long as the video",
        *("wan", "wan_vace", (EVEN,), (315, 315)),
        calls=(0, None, None, None, 1, None, 2, None, None, None, 3, None),
    ),
    Case("wan2.1 camera", "wan", "wan_camera", (EVEN,), extras={**IMAGE, **CAMERA}),
    Case("wan2.2 camera", "wan", "wan22_camera", (EVEN,), extras=CAMERA),
    Case("wan2.1 fun control", "wan", "wan_fun", extras={**IMAGE, **TWO_IMAGES}),
    Case("hunyuan video", **HUNYUAN),
    Case(
        "hunyuan video, reference",
        **{**HUNYUAN, "extras": {**POOLED, "ref_latent": {"shape": [1, 16, 1, 14, 18]}}, "before": 63},
    ),
    Case(
        "hunyuan video i2v, concatenated image",
        **{**HUNYUAN, "file": "hunyuan_i2v", "extras": {**POOLED, "concat_latent_image": {"shape": EVEN}}},
    ),
    Case("hunyuan video, guiding frame", **{**HUNYUAN, "extras": {**POOLED, "guiding_frame_index": 0}}),
    Case(
        "hunyuan video, masked text",
        **{**HUNYUAN, "extras": {**POOLED, "attention_mask": {"hidden": 3}}},
    ),
    Case("hunyuan video, texts in one batch", **{**HUNYUAN, "texts": (8, 8)}),
    Case(
        "hunyuan video 1.5",
        **{**HUNYUAN, "file": "hunyuan_15", "latents": ([1, 32, 5, 7, 9],), "calls": (0, 1, 2), "before": 4 + 6},
    ),
    Case("cogvideox", file="cog", **COG),
    Case("cogvideox, learned positions", file="cog_2b", **COG, heads=3),
    Case("cogvideox i2v", file="cog_i2v", extras=FIRST_IMAGE, **COG),
    Case("cogvideox, texts in one batch", file="cog", texts=(8, 8), **COG),
    Case("cogvideox 1.5, odd frames", file="cog_15", latents=([1, 16, 9, 13, 17],), **COG),
    Case("cogvideox 1.5 i2v", file="cog_15_i2v", latents=([1, 16, 9, 13, 17],), extras=FIRST_IMAGE, **COG),
    Case("minimax h3", **H3),
    Case("minimax h3, keyframe", **{**H3, "extras": {"minimax_keyframes": [KEYFRAME]}, "before": 22 + 63 + 6}),
    Case(
        "ltx video",
        file="ltxv",
        latents=([1, 128, 5, 7, 9],),
        width=96,
        extras={"attention_mask": {"hidden": 0}},
        **LTX,
    ),
    Case(
        "ltx video, a guide",
        file="ltxv",
        latents=([1, 128, 6, 7, 9],),
        width=96,
        extras={
            **{"attention_mask": {"hidden": 0}, "keyframe_idxs": {"shape": [1, 3, 63, 2]}},
            "concat_mask": {"ones": [1, 1, 6, 7, 9]},
        },
        after=63,
        **LTX,
    ),
    Case(
        "ltx video 13b",
        file="ltxv_13b",
        latents=([1, 128, 5, 7, 9],),
        width=96,
        extras={"attention_mask": {"hidden": 0}},
        **{**LTX, "head_dim": 128},
    ),
    Case(
        "ltx-2",
        file="ltxav",
        latents=([1, 128, 5, 7, 9], [1, 8, 13, 16]),
        width=192,
        **{**LTX, "head_dim": 128},
    ),
)

_GLYPHS = {"conditioning_byt5small": {"shape": [1, 4, 1472]}, "clip_vision": {"shape": [1, 6, 1152]}}
next(case for case in SPARSE if case.name == "hunyuan video 1.5").extras.update(_GLYPHS)

DENSE = (
    (Case("humo", "wan", "wan_humo"), "HumoWanModel"),
    (Case("scail", "wan", "wan_scail"), "SCAILWanModel"),
    (Case("s2v", "wan", "wan_s2v"), "WanModel_S2V"),
    (
        Case("animate", "wan", "wan_animate", (EVEN,), extras={**IMAGE, **POSE}, calls=tuple(range(5))),
        "AnimateWanModel",
    ),
    (Case("scail 2", "wan", "wan_scail2"), "SCAIL2WanModel"),
)
"""Variants whose sequences the pack does not understand, and what the report names."""
