"""The README's table of models: their sequences in words, and the tests' cases that each was run in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comfyui import family_cases
from sparse_vdit.plans.plan.published import published

from benchmarks.report.result_files import ROOT

HEAD = ("model", "name in plans", "layers", "heads x head_dim", "patch", "sequence", "text", "stays dense", "tested on")


@dataclass(frozen=True)
class ModelRow:
    """One row.

    Attributes:
        name: as its makers call it.
        numbers: (layers, heads, head_dim) in words, or name of the plans' files of a published model that has them.
        tested: names of the cases with its structure, each run in a real server with random weights.
        not_run: what it can do besides, in words, that no case has.
        patch: frames, height and width of latents in a token, where it is not the family's.
        layers: in words, where they are of two kinds.
    """

    name: str
    numbers: tuple[str, str, str] | str
    tested: tuple[str, ...]
    not_run: str = ""
    patch: str = ""
    layers: str = ""


@dataclass(frozen=True)
class FamilyRows:
    """What the models of a family share.

    Attributes:
        name: as plans name it.
        patch: frames, height and width of latents in a token.
        order: of the tokens of a self-attention sequence.
        text: what the text tokens are.
        dense: attention calls that no plan is about.
    """

    name: str
    patch: str
    order: str
    text: str
    dense: str
    models: tuple[ModelRow, ...]


WAN = FamilyRows(
    *("wan", "1x2x2", "reference image, video, context latents"),
    *("none, it is in cross-attention", "cross-attention, VACE's own blocks"),
    (
        ModelRow("Wan 2.1 1.3B", "wan2.1_1.3b_t2v", ("wan2.1 t2v", "wan, text as long as the video")),
        ModelRow(
            *("Wan 2.1 14B, text or image to video", "wan2.1_14b_t2v", ("wan2.1 t2v", "wan2.1 i2v")),
            "first and last frame",
        ),
        ModelRow(
            *("Wan 2.2 14B, high and low noise", "wan2.2_a14b_t2v"),
            ("wan2.1 t2v", "wan2.2 i2v, no clip vision"),
        ),
        ModelRow("Wan 2.2 5B", "wan2.2_5b", ("wan2.2 5b",), "image to video, by times per frame"),
        ModelRow(
            *("Wan 2.1 VACE 1.3B / 14B (main blocks)", ("30 / 40", "12 / 40", "128")),
            ("wan vace", "wan vace, two contexts", "wan vace, text as long as the video"),
        ),
        ModelRow(
            "Wan 2.1 and 2.2 Fun Control, Camera, Phantom, in-context references",
            ("30 / 40", "12 to 40", "128"),
            (
                *("wan2.1 fun control", "wan fun control, reference image", "wan2.1 camera", "wan2.2 camera"),
                *("wan phantom", "wan context latents"),
            ),
            "Wan 2.2 Fun Control's own channels",
        ),
    ),
)
HUNYUAN_VIDEO = FamilyRows(
    *("hunyuan_video", "1x2x2", "text, reference image, video"),
    *("before the video, as long as the prompt; masked text stays masked", "token refiner"),
    (
        ModelRow(
            *("HunyuanVideo 13B, text or image to video", "hunyuanvideo_t2v"),
            (
                *("hunyuan video", "hunyuan video, texts in one batch", "hunyuan video, masked text"),
                *("hunyuan video i2v, concatenated image", "hunyuan video, guiding frame", "hunyuan video, reference"),
            ),
            layers="20 + 40",
        ),
        ModelRow(
            *("HunyuanVideo 1.5 8.3B", "hunyuanvideo_1.5", ("hunyuan video 1.5",)),
            *("super-resolution, models of few steps", "1x1x1"),
        ),
    ),
)
COGVIDEOX = FamilyRows(
    *("cogvideox", "1x2x2", "text, video", "before the video, 226 tokens or more", "none"),
    (
        ModelRow(
            *("CogVideoX 2B", "cogvideox_2b", ("cogvideox, learned positions",)),
            "files without saved positions, which ComfyUI gives rotary ones",
        ),
        ModelRow(
            *("CogVideoX 5B, text or image to video", "cogvideox_5b"),
            ("cogvideox", "cogvideox, texts in one batch", "cogvideox i2v"),
        ),
        ModelRow(
            *("CogVideoX 1.5 5B, text or image to video", "cogvideox_1.5_5b"),
            ("cogvideox 1.5, odd frames", "cogvideox 1.5 i2v"),
            patch="2x2x2",
        ),
    ),
)
MINIMAX_H3 = FamilyRows(
    *("minimax_h3", "1x2x2", "text, conditions, sound, video"),
    *("before the video, and so are keyframes, references and sound", "token refiner"),
    (ModelRow("MiniMax H3", ("50", "56", "128"), ("minimax h3", "minimax h3, keyframe"), "references"),),
)
LTX = FamilyRows(
    *("ltx", "1x1x1", "video, guides"),
    *("none, it is in cross-attention", "cross-attention, all attention of sound"),
    (
        ModelRow("LTX-Video 2B", ("28", "32", "64"), ("ltx video", "ltx video, a guide")),
        ModelRow("LTX-Video 13B", ("48", "32", "128"), ("ltx video 13b",), "guides"),
        ModelRow("LTX-2, video stream", ("48", "32", "128"), ("ltx-2",), "guides, reference sound"),
    ),
)
FAMILIES = (WAN, HUNYUAN_VIDEO, COGVIDEOX, MINIMAX_H3, LTX)


def models_table() -> str:
    """One row for each model of each family, in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for family in FAMILIES:
        for model in family.models:
            layers, heads, head_dim = numbers(model)
            cells = (model.name, f"`{family.name}`", layers, f"{heads} x {head_dim}")
            words = (model.patch or family.patch, family.order, family.text, family.dense, tested(model))
            lines.append(f"| {' | '.join((*cells, *words))} |")
    cases = Path(family_cases.__file__).relative_to(ROOT).as_posix()
    lines += [
        "",
        "Tested on: ComfyUI's own class and loader, a small checkpoint with random weights of that structure, sampled "
        f"in a real server; names are those of the tests' cases (`{cases}`).",
        "**No real checkpoint was at hand, so none was run with a real model's weights or size.**",
    ]
    return "\n".join(lines)


def numbers(model: ModelRow) -> tuple[str, str, str]:
    """(layers, heads, head_dim) in words."""
    shape = model.numbers
    layers, heads, head_dim = map(str, published(shape).shape) if isinstance(shape, str) else shape
    return model.layers or layers, heads, head_dim


def tested(model: ModelRow) -> str:
    """The cases that a model was run in, and what was not run."""
    known = {case.name for case in family_cases.SPARSE}
    unknown = [name for name in model.tested if name not in known]
    if unknown:
        raise ValueError(f"{model.name}: no cases {', '.join(unknown)} in {family_cases.__file__}")
    cases = "; ".join(model.tested)
    return f"{cases}. Not run: {model.not_run}" if model.not_run else cases
