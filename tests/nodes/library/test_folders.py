"""Where plans are read and written: ComfyUI's own folder first, a writable one for new files, no odd names."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import load_pack  # noqa: F401
import pytest
import yaml
from sparse_vdit.plans.plan.writing import write_new

NAME = "sparse_vdit.nodes.host.library.folders"


def folder_paths(base: Path) -> ModuleType:
    """ComfyUI's module of that name, as far as the pack uses it."""
    found = ModuleType("folder_paths")
    found.base_path, found.models_dir = str(base), str(base / "models")
    found.folder_names_and_paths = {}

    def add_model_folder_path(name: str, path: str, is_default: bool = False) -> None:
        paths, _ = found.folder_names_and_paths.setdefault(name, ([], set()))
        paths.remove(path) if path in paths else None
        paths.insert(0 if is_default else len(paths), path)

    found.add_model_folder_path = add_model_folder_path
    found.get_folder_paths = lambda name: found.folder_names_and_paths[name][0]
    return found


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, beside stand-ins for ComfyUI's."""
    cli_args = ModuleType("comfy.cli_args")
    cli_args.args = SimpleNamespace(extra_model_paths_config=None)
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths(tmp_path))
    monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.cli_args", cli_args)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME, None)


@pytest.mark.parametrize("is_default", [False, True])
def test_comfyuis_own_folder_comes_first_unless_another_is_default(
    folders: ModuleType, tmp_path: Path, is_default: bool
) -> None:
    block = {"base_path": str(tmp_path / "share"), "is_default": is_default, folders.FOLDER: "plans"}
    (tmp_path / "extra_model_paths.yaml").write_text(yaml.safe_dump({"share": block}))
    share, own = tmp_path / "share" / "plans", tmp_path / "models" / folders.FOLDER
    folders.folder_paths.add_model_folder_path(folders.FOLDER, str(share), is_default)  # as ComfyUI starts
    folders.register()
    wanted = [share, own] if is_default else [own, share]
    assert list(map(Path, folders.folder_paths.get_folder_paths(folders.FOLDER))) == wanted
    assert folders.writable_folder() == wanted[0] and wanted[0].is_dir()


@pytest.mark.parametrize("content", ["", "- a list", "{broken", "share: 3\n"])
def test_an_odd_yaml_changes_nothing(folders: ModuleType, tmp_path: Path, content: str) -> None:
    (tmp_path / "extra_model_paths.yaml").write_text(content)
    folders.register()
    assert folders.writable_folder() == tmp_path / "models" / folders.FOLDER


def test_a_folder_that_can_be_written_is_found(
    folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is a link to a drive that is not there, one is read-only."""
    folders.register()
    own = tmp_path / "models" / folders.FOLDER
    own.parent.mkdir()
    own.symlink_to(tmp_path / "not there")
    shares = [tmp_path / "read-only", tmp_path / "share"]
    for share in shares:
        share.mkdir()
        folders.folder_paths.add_model_folder_path(folders.FOLDER, str(share))
    truly = folders.tempfile.TemporaryFile

    def temporary(dir: Path) -> object:
        if dir == shares[0]:
            raise OSError(30, "Read-only file system")
        return truly(dir=dir)

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", temporary)
    assert folders.writable_folder() == shares[1]
    assert folders.calibrated_folder() == shares[1] / "calibrated"
    folders.folder_paths.folder_names_and_paths[folders.FOLDER][0].remove(str(shares[1]))
    with pytest.raises(ValueError, match="no folder of plans can be written") as error:
        folders.writable_folder()
    assert "read-only (Read-only file system)" in str(error.value) and str(own) in str(error.value)
    assert folders.calibrated_folder() == own / "calibrated"  # to read


@pytest.mark.parametrize(
    "name",
    ["", " ", "a/b", "a\\b", "..", ".hidden", "dot.", "con", "COM1", "com\u00b9", "lpt\u00b3.x", "conin$", "nul.json",
     "tab\there", "new\nline", "half\ud800", "left\u202eright", "x" * 101, "\u00fc" * 101, 'quo"te', "a:b", "a*"],
)  # fmt: skip
def test_names_that_are_refused(folders: ModuleType, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be written on every system"):
        folders.checked_name(name)


@pytest.mark.parametrize("name", ["my_plan", "Plan 2 (fast).json", "\u6a21\u578b", "com10", "console", "a.safetensors"])
def test_names_that_are_fine(folders: ModuleType, name: str) -> None:
    assert folders.checked_name(name) == name.removesuffix(".json").removesuffix(".safetensors")


def test_a_folder_called_like_a_plan_is_none(folders: ModuleType, tmp_path: Path) -> None:
    folders.register()
    (tmp_path / "models" / folders.FOLDER / "x.json").mkdir(parents=True)
    (tmp_path / "models" / folders.FOLDER / "y.json").write_text("{}")
    assert [name for name in folders.plan_files() if name.startswith("user/")] == ["user/y"]


def test_what_killed_writers_left_is_removed_a_day_later(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f".{digit * 32}.tmp" for digit in ("a", "b", "x"))
    for path in (old, new, other):
        path.write_text("")
        os.utime(path, (time.time() - 90_000,) * 2)
    os.utime(new)
    write_new(tmp_path / "plan.json", b"{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((new.name, other.name, "plan.json"))


def test_a_file_that_was_changed_and_its_time_set_back_has_another_state(folders: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"one")
    stat, before = path.stat(), folders.file_state(path)
    assert folders.file_state(path) == before
    time.sleep(0.02)
    with open(path, "r+b") as file:
        file.write(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert folders.file_state(path) != before
