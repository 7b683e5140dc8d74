"""Where plans lie: shipped with the pack (plans/<family>/), and the user's (models/sparse_vdit_plans).

Nodes get names out of a listing, never paths, so that no workflow can make them open another file.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from pathlib import Path

import folder_paths
import yaml
from comfy.cli_args import args

from ....plans.plan.presets import PRESETS
from ..models import FAMILIES
from .shipped import SHIPPED
from .stored import CALIBRATED

FOLDER = "sparse_vdit_plans"
USER_PREFIX = "user/"

_FILE_NAME = re.compile(r"[^/\\:*?\"<>|]{1,100}")
MAX_NAME_BYTES = 200  # of a name; file systems take 255, endings and numbers included
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
"""Names of devices on Windows."""


def register() -> None:
    """Tell ComfyUI of the user's plan folder. Others from extra_model_paths.yaml come after it, unless they are default
    there."""
    own = os.path.join(folder_paths.models_dir, FOLDER)
    folder_paths.add_model_folder_path(FOLDER, own, not _has_default())
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {".json"})


def _has_default() -> bool:
    """Whether extra_model_paths.yaml names a folder of plans as default; ComfyUI keeps their order alone."""
    given = itertools.chain.from_iterable(args.extra_model_paths_config or ())
    for file in (Path(folder_paths.base_path) / "extra_model_paths.yaml", *map(Path, given)):
        try:
            blocks = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            if any(FOLDER in block and block.get("is_default") for block in blocks.values() if isinstance(block, dict)):
                return True
        except (OSError, ValueError, AttributeError, yaml.YAMLError):  # ComfyUI says what is wrong with it
            continue
    return False


def writable_folder() -> Path:
    """The first folder of plans that can be written; made where it is missing.

    Raises:
        ValueError: none can be.
    """
    refused = []
    for folder in map(Path, folder_paths.get_folder_paths(FOLDER)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            refused.append(f"{folder} ({error.strerror or error})")
    raise ValueError(
        f"no folder of plans can be written: {', '.join(refused)}. Make one of them writable, or name another one as "
        f"{FOLDER} in extra_model_paths.yaml"
    )


def plan_files() -> dict[str, Path]:
    """Plans by the name that nodes show: `<family>/<name>` for shipped ones, the family that most use first, then
    `user/<name>`."""
    shipped = (path for family in FAMILIES for path in sorted((SHIPPED / family.name).glob("*.json")))
    found = {f"{path.parent.name}/{path.stem}": path for path in shipped}
    for folder in folder_paths.get_folder_paths(FOLDER):
        root = Path(folder)
        for path in sorted(root.rglob("*.json")) if root.is_dir() else ():
            if not path.is_file():
                continue
            name = USER_PREFIX + path.relative_to(root).with_suffix("").as_posix()
            found.setdefault(name, path)
    return found


def calibrated_folder() -> Path:
    """Where the plans lie that were found while sampling; it need not be there."""
    try:
        return writable_folder() / CALIBRATED
    except ValueError:  # what lies there may be read all the same
        return Path(folder_paths.get_folder_paths(FOLDER)[0]) / CALIBRATED


def profile_beside(path: Path) -> Path:
    """Where a plan's profile is looked for: plans of several presets share one, `name.fast.json` that of `name`."""
    beside = path.with_suffix(".safetensors")
    name, preset = Path(path.stem).stem, Path(path.stem).suffix[1:]
    return path.with_name(f"{name}.safetensors") if preset in PRESETS and not beside.exists() else beside


def file_state(path: Path) -> tuple[int, ...]:
    """What changes with a file's content, also where its time was set back; empty without a file."""
    if not path.is_file():
        return ()
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def plain_name(name: str) -> str:
    """A file name without the endings of plans and profiles."""
    return name.strip().removesuffix(".json").removesuffix(".safetensors")


def checked_name(name: str) -> str:
    """A file name without the endings of plans and profiles.

    Raises:
        ValueError: a name that is no plain file name.
    """
    name = plain_name(name)
    if (
        len(name.encode(errors="replace")) > MAX_NAME_BYTES
        or not _FILE_NAME.fullmatch(name)
        or not name.isprintable()
        or _RESERVED.fullmatch(name)
        or name.startswith(".")
        or name.endswith((".", " "))
    ):
        raise ValueError(
            f"file name {name[:200]!r} cannot be written on every system: "
            f'expected up to 100 characters ({MAX_NAME_BYTES} bytes) without / \\ : * ? " < > |, no folder, not '
            "starting or ending with a dot, and none of the names of devices in Windows (con, nul, com1 and the like)"
        )
    return name
