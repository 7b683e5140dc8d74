"""A ComfyUI that is too old, and a second copy of the pack: one line each, before any node is registered."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import load_pack
import pytest


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, beside stand-ins for ComfyUI's."""
    server = ModuleType("server")
    server.PromptServer = SimpleNamespace(instance=SimpleNamespace())
    version = ModuleType("comfyui_version")
    version.__version__ = "0.33.0"
    monkeypatch.setitem(sys.modules, "server", server)
    monkeypatch.setitem(sys.modules, "folder_paths", ModuleType("folder_paths"))
    monkeypatch.setitem(sys.modules, "comfyui_version", version)
    monkeypatch.delitem(sys.modules, "sparse_vdit.nodes.host.installed", raising=False)
    yield importlib.import_module("sparse_vdit.nodes.host.installed")
    sys.modules.pop("sparse_vdit.nodes.host.installed", None)


@pytest.mark.parametrize(
    ("version", "old"),
    [("0.33.0", False), ("0.33", False), ("0.34.1", False), ("1.0", False), ("0.33.0-rc1", False), ("nightly", False),
     ("0.32.9", True), ("0.3.75", True), ("0.0.0", True)],
)  # fmt: skip
def test_versions(installed: ModuleType, version: str, old: bool) -> None:
    why = installed.too_old(version)
    assert (why is not None) == old
    if old:
        assert f"needs ComfyUI 0.33.0 or newer, this is {version}" in why


def test_the_first_copy_serves(installed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed.claim_server() is None and installed.claim_server() is None
    second = Path("/custom_nodes/second copy")
    monkeypatch.setattr(installed, "FOLDER", second)
    why = installed.claim_server()
    assert str(second) in why and str(Path(load_pack.ROOT)) in why


def test_without_a_server_nothing_is_asked(installed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "PromptServer", SimpleNamespace())
    assert installed.claim_server() is None


@pytest.mark.parametrize(
    ("folder", "there"),
    [("raylight/src/raylight", True), ("its fork/src/raylight", True), ("raylight.disabled/src/raylight", False),
     (".disabled/raylight/src/raylight", False), ("raylight/src", False), ("another/raylight", False)],
)  # fmt: skip
def test_raylight_is_known_by_its_folder(
    installed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, there: bool
) -> None:
    (tmp_path / "second" / folder).mkdir(parents=True)
    folders = {"custom_nodes": [str(tmp_path / "absent"), str(tmp_path / "second")]}
    monkeypatch.setattr(installed.folder_paths, "get_folder_paths", folders.get, raising=False)
    assert installed.has_raylight() == there
