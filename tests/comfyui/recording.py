"""Writes what tests of compositions found, where $SPARSE_VDIT_COMPOSITIONS names a file: a JSON object per line."""

from __future__ import annotations

import json
import os
from pathlib import Path


def record(family: str, composition: str, **found: object) -> None:
    """Add a row with fields of `Found`; nothing happens where no file is named."""
    file = os.environ.get("SPARSE_VDIT_COMPOSITIONS")
    if file:
        with Path(file).open("a") as out:
            out.write(json.dumps({"family": family, "composition": composition, **found}) + "\n")
