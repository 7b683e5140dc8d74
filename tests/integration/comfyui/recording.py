"""Writes what tests found, where $SPARSE_VDIT_FOUND names a file: a JSON object per line, each a row of a table."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = "SPARSE_VDIT_FOUND"


def record(table: str, **row: object) -> None:
    """Add a row to `workflows`, `containers` or `memory`; nothing happens where no file is named."""
    file = os.environ.get(FILE)
    if file:
        with Path(file).open("a") as out:
            out.write(json.dumps({"table": table, **row}) + "\n")


def record_workflow(family: str, model: str, workflow: str, calls: tuple[int, int], **more: object) -> None:
    """Add a row to the table of workflows; `calls`: sparse and dense ones; `more`: differences, and what was said."""
    found = {"sparse_calls": calls[0], "dense_calls": calls[1], **more}
    record("workflows", family=family, model=model, workflow=workflow, **found)


def record_small_wan(workflow: str, calls: tuple[int, int], **more: object) -> None:
    """The same for the small Wan."""
    record_workflow("wan", "small Wan", workflow, calls, **more)
