"""How long `end_to_end.py` will take on a GPU: counted operations over assumed rates, to cut it into calls that end.

The rates are guesses for an H100 or H200 and no measurements: leave a fifth of the time that a call may take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.models.pack_methods import SHIPPED
from benchmarks.models.whole_methods import METHODS, NO_ATTENTION
from benchmarks.models.whole_models import WholeModel

PRODUCTS, EXACT, EIGHT_BITS = 600e12, 400e12, 500e12  # FLOP/s of linear layers, of dense attention, of that in 8 bits
SPARSE = 320e12  # FLOP/s on kept tiles
SMALL_HEADS = 0.7  # of those rates of attention at head_dim 64
OTHER = 1.15  # what is neither: of the time of both
KEPT = {SHIPPED: 0.4, "core_sol_1.3": 0.15, "core_sol_1.0": 0.25, "core_sla_10": 0.2}  # of all tiles, with extra tokens
STARTING, BUILDING, COMPILING = 45.0, 15.0, 150.0  # seconds: of a call, of a model, of torch.compile


def forward_flops(model: WholeModel) -> tuple[float, float]:
    """Operations of one forward: linear layers of the video's tokens, and dense self-attention."""
    settings, tokens = model.settings, tokens_of(model)
    if "ffn_dim" in settings:  # Wan: four products of self-attention, two of cross-attention
        width, layers = settings["dim"], settings["num_layers"]
        weights = 6 * width**2 + 2 * width * settings["ffn_dim"]
    elif "hidden_size" in settings:
        width, layers = settings["hidden_size"], settings["depth"] + settings["depth_single_blocks"]
        weights = 12 * width**2
    else:
        width, layers = settings["num_attention_heads"] * settings["attention_head_dim"], settings["num_layers"]
        weights = 12 * width**2
    return 2 * weights * tokens * layers, 4 * tokens**2 * width * layers


def tokens_of(model: WholeModel) -> int:
    """Tokens of the sequence, text among them where it goes through self-attention."""
    sizes, patch = model.latent[1:], model.settings["patch_size"]
    steps = patch if isinstance(patch, (list, tuple)) else (model.settings["patch_size_t"], patch, patch)
    video = math.prod(-(-size // step) for size, step in zip(sizes, steps, strict=True))
    return video + (0 if "ffn_dim" in model.settings else model.text[0])


def method_seconds(model: WholeModel, name: str, plan: str | None, again: bool) -> float:
    """All forwards of a method: the timed one and, not `again`, its first call, or those of a sampler run."""
    linear, attention = forward_flops(model)
    method, slow = METHODS[name], SMALL_HEADS if model.settings.get("attention_head_dim") == 64 else 1.0
    dense = attention / ((EIGHT_BITS if method.eight_bits else EXACT) * slow)
    if name == NO_ATTENTION:
        seconds = 0.0
    elif plan or name in KEPT:
        kept = KEPT[name] if plan is None else KEPT[plan] if plan in KEPT else float(plan)
        seconds = attention * kept / (SPARSE * slow)
    else:
        seconds = dense
    one = OTHER * (linear / PRODUCTS + seconds)
    if method.steps:  # it times dense attention too: as if one more step were dense
        return method.steps * one + OTHER * (linear / PRODUCTS + dense)
    return one * (1 if method.short_warmup or again else 2) + COMPILING * method.only_compiled


def estimate(todo: dict[str, tuple[WholeModel, Sequence[tuple[str, str | None]]]]) -> str:
    """Seconds of each model with what is to be measured of it, and minutes of all of them in one call, in words."""
    seconds = {}
    for name, (model, jobs) in todo.items():
        methods = [method for method, _ in jobs]
        found = [method_seconds(model, *job, job[0] in methods[:number]) for number, job in enumerate(jobs)]
        seconds |= {name: BUILDING + sum(found)} if found else {}
    lines = [f"{name:17} {value:5.0f} s, {len(todo[name][1])} rows" for name, value in seconds.items()]
    minutes = (STARTING + sum(seconds.values())) / 60
    return "\n".join([*lines, f"{'in one call':17} {minutes:5.1f} min, by guessed rates"])
