"""The picture of `end_to_end.py`: for every model a bar for each method, what is not attention in grey."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.models.whole_methods import METHODS, NO_ATTENTION
from benchmarks.models.whole_models import TINY

WIDTH, LABEL, BAR, GAP, TITLE = 900, 230, 14, 4, 30
REST, DENSE, EIGHT_BITS, OURS, OTHERS = "#bbbbbb", "#444444", "#8d6a9f", "#0b6e4f", "#d1495b"
LEGEND = {
    "not attention": REST, "dense": DENSE, "dense in 8 bits": EIGHT_BITS, "this pack": OURS, "other sparse": OTHERS,
}  # fmt: skip
ON_TOYS = "TOY MODELS, A TRIAL OF THE SCRIPT: THESE TIMES MEAN NOTHING"


def colour(name: str) -> str:
    """Of the attention of a method."""
    method = METHODS[name]
    if name.startswith("ours"):
        return OURS
    return DENSE if method.dense else EIGHT_BITS if method.eight_bits else OTHERS


def draw(rows: list[dict], file: Path) -> None:
    """Bars of all timed forwards, a panel for each model, as wide as its slowest method."""
    timed = [row for row in rows if row.get("seconds_per_forward") and row["method"] != NO_ATTENTION]
    models = list(dict.fromkeys(row["model"] for row in timed))
    height = TITLE + len(models) * TITLE + len(timed) * (BAR + GAP) + TITLE
    canvas = Image.new("RGB", (WIDTH, height), "white")
    pen, top = ImageDraw.Draw(canvas), TITLE
    if any(model in TINY for model in models):
        pen.text((8, 8), ON_TOYS, fill=OTHERS)
    for model in models:
        top = panel(pen, [row for row in timed if row["model"] == model], top)
    for number, (name, ink) in enumerate(LEGEND.items()):
        pen.rectangle((8 + number * 150, top + 10, 20 + number * 150, top + 20), fill=ink)
        pen.text((26 + number * 150, top + 9), name, fill="black")
    canvas.save(file, optimize=True)


def panel(pen: ImageDraw.ImageDraw, rows: list[dict], top: int) -> int:
    """The bars of one model from `top` on; returns where they end."""
    slowest = max(row["seconds_per_forward"] for row in rows)
    pen.text((8, top + 10), f"{rows[0]['model']}: seconds of one forward", fill="black")
    top += TITLE
    for row in sorted(rows, key=lambda row: -row["seconds_per_forward"]):
        seconds = row["seconds_per_forward"]
        right = LABEL + (WIDTH - LABEL - 80) * seconds / slowest
        middle = LABEL + (right - LABEL) * (1 - row.get("attention_share", 0.0))
        pen.text((8, top), " ".join(filter(None, [row["method"], row.get("plan")])), fill="black")
        pen.rectangle((LABEL, top, middle, top + BAR), fill=REST)
        pen.rectangle((middle, top, right, top + BAR), fill=colour(row["method"]))
        pen.text((right + 6, top), f"{seconds:.2f}", fill="black")
        top += BAR + GAP
    return top
