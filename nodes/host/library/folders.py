"""Where plans lie: shipped with the pack (plans/<family>/), and the user's (models/sparse_vdit_plans).

Nodes get names out of a listing, never paths, so that no workflow can make them open another file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import folder_paths

from ....plans.plan.presets import PRESETS
from ..models import FAMILIES
from .shipped import SHIPPED
from .stored import CALIBRATED

FOLDER = "sparse_vdit_plans"
USER_PREFIX = "user/"

_FILE_NAME = re.compile(r"[^/\\:*?\"<>|\x00-\x1f]{1,100}")
MAX_NAME_BYTES = 200  # of a name; file systems take 255, endings and numbers included
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices on Windows


def register() -> None:
    """Tell ComfyUI of the user's plan folder; extra_model_paths.yaml may add more of them."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {".json"})


def plan_files() -> dict[str, Path]:
    """Plans by the name that nodes show: `<family>/<name>` for shipped ones, the family that most use first, then
    `user/<name>`."""
    shipped = (path for family in FAMILIES for path in sorted((SHIPPED / family.name).glob("*.json")))
    found = {f"{path.parent.name}/{path.stem}": path for path in shipped}
    for folder in folder_paths.get_folder_paths(FOLDER):
        root = Path(folder)
        for path in sorted(root.rglob("*.json")) if root.is_dir() else ():
            name = USER_PREFIX + path.relative_to(root).with_suffix("").as_posix()
            found.setdefault(name, path)
    return found


def calibrated_folder() -> Path:
    """Where the plans lie that were found while sampling; it need not be there."""
    return Path(folder_paths.get_folder_paths(FOLDER)[0]) / CALIBRATED


def profile_beside(path: Path) -> Path:
    """Where a plan's profile is looked for: plans of several presets share one, `name.fast.json` that of `name`."""
    beside = path.with_suffix(".safetensors")
    name, preset = Path(path.stem).stem, Path(path.stem).suffix[1:]
    return path.with_name(f"{name}.safetensors") if preset in PRESETS and not beside.exists() else beside


def plain_name(name: str) -> str:
    """A file name without the endings of plans and profiles."""
    return name.strip().removesuffix(".json").removesuffix(".safetensors")


def user_file(name: str, suffix: str) -> Path:
    """Path in the user's plan folder for a new file; makes the folder.

    Raises:
        ValueError: a name that is no plain file name.
    """
    name = plain_name(name)
    if (
        len(name.encode(errors="replace")) > MAX_NAME_BYTES
        or not _FILE_NAME.fullmatch(name)
        or _RESERVED.fullmatch(name)
        or name.startswith(".")
        or name.endswith((".", " "))
    ):
        raise ValueError(
            f"file name {name!r} cannot be written on every system: "
            f'expected up to 100 characters ({MAX_NAME_BYTES} bytes) without / \\ : * ? " < > |, no folder, not '
            "starting or ending with a dot, and none of the names of devices in Windows (con, nul, com1 and the like)"
        )
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}{suffix}"
