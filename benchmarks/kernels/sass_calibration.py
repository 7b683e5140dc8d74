"""Compares the speed model with published speeds: the same kernels, compiled here, and predicted.

A tuned kernel was published at its fastest; here too the fastest prediction of a few launch configurations counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.kernels.sass_cards import CARDS
from benchmarks.kernels.sass_model import Compiled, Prediction, predict
from benchmarks.kernels.sass_units import Tile

SAGE = "SageAttention README, chart at head_dim 128"


@dataclass(frozen=True)
class Config:
    """A launch configuration of a calibration kernel."""

    rows: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Point:
    """One published speed.

    Attributes:
        what: the published kernel.
        kernel: the one of `sass_calibration_kernels.py` that stands for it.
        published: 10^12 operations a second.
        note: what to know of the comparison, or nothing.
        fitted: a number of the model was fitted on this speed.
    """

    what: str
    kernel: str
    card: str
    head_dim: int
    configs: tuple[Config, ...]
    published: float
    source: str
    note: str = ""
    fitted: bool = False


SAGE_CONFIG = (Config(128, 64, 8, 4),)
FA2_CONFIG = (Config(128, 64, 8, 3),)
LISTED = (Config(64, 64, 4, 3), Config(64, 64, 8, 3))
HOPPER_128 = (Config(128, 64, 8, 3), Config(128, 128, 8, 2), Config(128, 128, 8, 3), Config(64, 128, 4, 3))
HOPPER_64 = (Config(128, 64, 8, 3), Config(128, 128, 8, 3), Config(64, 64, 4, 3), Config(128, 128, 4, 3))
AMPERE_128 = (Config(128, 64, 8, 3), Config(128, 32, 8, 3), Config(128, 128, 8, 2))
AMPERE_64 = (Config(128, 64, 4, 3), Config(128, 64, 8, 3), Config(128, 32, 4, 3), Config(128, 128, 8, 3))
BLACKWELL_128 = (Config(128, 64, 8, 3), Config(128, 128, 8, 2), Config(128, 64, 4, 3))
CAUSAL = "published with a causal mask"
OTHER_CODE = "our code is not theirs"
OTHER_5090 = f"{OTHER_CODE}; SageAttention's chart has 214"
POINTS = (
    Point("SageAttention 1", "int8", "RTX 4090", 128, SAGE_CONFIG, 322, SAGE),
    Point("SageAttention 1", "int8", "RTX 3090", 128, SAGE_CONFIG, 134, SAGE),
    Point("SageAttention 1", "int8", "RTX 5090", 128, SAGE_CONFIG, 479, SAGE),
    Point("SageAttention 1", "int8", "H100", 128, SAGE_CONFIG, 518, SAGE),
    Point("Triton tutorial", "descriptor", "H100", 128, HOPPER_128, 487, "github facebookexperimental/triton #205"),
    Point(
        "Triton tutorial", "descriptor", "H100", 64, HOPPER_64, 403, "FlashAttention 3, arXiv 2407.08608",
        "SEVERAL_PROGRAMS was fitted on it", fitted=True,
    ),
    Point("Triton tutorial", "made", "A100", 128, AMPERE_128, 188, "github Dao-AILab/flash-attention #307", CAUSAL),
    Point(
        "Triton tutorial", "made", "A100", 64, AMPERE_64, 187, "github Dao-AILab/flash-attention #307",
        f"{CAUSAL}; SEVERAL_PROGRAMS was fitted on it", fitted=True,
    ),
    Point("Triton tutorial", "descriptor", "B200", 128, BLACKWELL_128, 746, "github meta-pytorch/tritonbench #1014"),
    Point(
        "FastVideo VSA in Triton, 64 x 64", "listed", "RTX PRO 5000", 128, LISTED, 127.6,
        "github flashinfer-ai/flashinfer #4944", "L2_BURST was fitted on it", fitted=True,
    ),
    Point(
        "VSA-H3 in Triton, 64 x 64", "listed", "B300", 128, LISTED, 617, "github sgl-project/sglang #37676", OTHER_CODE,
    ),
    Point("FlashAttention 2, bf16", "pointer", "RTX 3090", 128, FA2_CONFIG, 70, SAGE, OTHER_CODE),
    Point("FlashAttention 2, bf16", "pointer", "RTX 4090", 128, FA2_CONFIG, 164, SAGE, OTHER_CODE),
    Point("FlashAttention 2, bf16", "pointer", "RTX 5090", 128, FA2_CONFIG, 191, "blog of gau-nernst", OTHER_5090),
)  # fmt: skip


def compile_point(point: Point, config: Config) -> Compiled | None:
    """The kernel of a point; None where it does not fit the card's shared memory. Needs TRITON_INTERPRET unset."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from benchmarks.kernels import sass_calibration_kernels as kernels

    name = "descriptor" if point.kernel == "made" else point.kernel
    kernel = getattr(kernels, f"{name}_attention")
    constants = {"HEAD_DIM": point.head_dim, "ROWS": config.rows, "KEYS": config.keys, "STAGES": config.stages}
    if name == "descriptor":
        constants["MADE_HERE"] = point.kernel == "made"
    known = _types(point.kernel, point.head_dim, config)
    signature = {n: "constexpr" if n in constants else known.get(n, "i32") for n in kernel.arg_names}
    aligned = [n for n, kind in signature.items() if kind.startswith("*") or n == "tokens"]
    attributes = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    card = CARDS[point.card]
    target = GPUTarget("cuda", int(card.arch.removeprefix("sm_")), 32)
    made = compile(source, target=target, options={"num_warps": config.warps, "num_stages": config.stages})
    if made.metadata.shared > card.shared - 1024:
        return None
    tile = Tile(config.rows, config.keys, point.head_dim)
    return Compiled(made.asm["cubin"], tile, config.warps, made.metadata.shared)


def _types(kernel: str, head_dim: int, config: Config) -> dict[str, str]:
    """Triton's types of the arguments; others are whole numbers."""
    half = "bf16" if kernel in ("pointer", "listed") else "fp16"
    if kernel == "descriptor":
        rows, keys = (f"tensordesc<fp16[{length}, {head_dim}]>" for length in (config.rows, config.keys))
        return {"Q": rows, "K": keys, "V": keys, "OUT": rows, "qk_scale": "fp32"}
    read = "*i8" if kernel == "int8" else f"*{half}"
    floats = {"Q_SCALE": "*fp32", "K_SCALE": "*fp32", "qk_scale": "fp32"}
    lists = {"TILES": "*i32", "COUNTS": "*i32", "SIZES": "*i32"}
    return {"Q": read, "K": read, "V": f"*{half}", "OUT": f"*{half}", **floats, **lists}


def predict_point(point: Point) -> tuple[Config, Prediction]:
    """The configuration with the fastest prediction."""
    kernels = {config: compile_point(point, config) for config in point.configs}
    card = CARDS[point.card]
    found = [(config, predict(kernel, card)) for config, kernel in kernels.items() if kernel]
    return max(found, key=lambda pair: pair[1].tflops)


def rows() -> list[dict]:
    """One row for each point."""
    return [_row(point) for point in POINTS]


def _row(point: Point) -> dict:
    config, found = predict_point(point)
    row = {
        "table": "calibration", "kernel": point.what, "card": point.card, "head_dim": point.head_dim,
        "published": point.published, "predicted": round(found.tflops, 1), "source": point.source, "note": point.note,
        "fitted": point.fitted,
        "programs": found.programs, "warps": config.warps, "stages": config.stages, "rows": config.rows,
        "keys": config.keys, "instructions": found.counts.instructions, "registers": found.counts.registers,
    }  # fmt: skip
    print({name: row[name] for name in ("kernel", "card", "head_dim", "published", "predicted")}, flush=True)
    return row
