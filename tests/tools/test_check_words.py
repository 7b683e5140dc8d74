"""The check of words: what it finds, and that it reads what users read."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from load_pack import ROOT

from tools.check_words import idioms, pages


@pytest.mark.parametrize(
    "text",
    ["Times stand beside it.", "It is never slower.", "What no node mends", "A warm-up of 4 steps", "told by numbers"],
)
def test_idioms_and_claims_are_found(text: str) -> None:
    assert list(idioms(f"Plain words.\n{text}"))
    assert {line for line, *_ in idioms(f"Plain words.\n{text}")} == {2}


def test_plain_words_and_code_are_left_alone() -> None:
    assert list(idioms("A recommendation. See `warm-up` in [this page](beside.md).")) == []


def test_every_page_of_users_is_read() -> None:
    read = {path.relative_to(ROOT).as_posix() for path in pages()}
    assert {"README.md", "CONTRIBUTING.md", "docs/publishing.md", "kernels/compiled/README.md"} <= read
    assert {"docs/reference/models.md", "web/docs/SparseVDiTPatchModel.md"} <= read


@pytest.mark.skipif(importlib.util.find_spec("codespell_lib") is None, reason="codespell is not installed")
def test_spelling_mistakes_are_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Recieve a vidoe.")  # codespell:ignore
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode and "Recieve ==> Receive" in found.stdout  # codespell:ignore
