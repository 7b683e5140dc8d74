"""The type checker finds a wrong call between the pack's modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_types import CHECKED, PACKAGE, check, copy_sources

RIGHT = "from ..kernels.grid import area\n\n\ndef twice(width: int) -> int:\n    return 2 * area(width)\n"


def packages(folder: Path, use: str) -> Path:
    """A package of the pack's folders, in which one module uses another."""
    for name in CHECKED:
        place = folder / PACKAGE / name.replace(".", "/")
        place.mkdir(parents=True)
        (place / "__init__.py").touch()
        (place.parent / "__init__.py").touch()
    (folder / PACKAGE / "kernels" / "grid.py").write_text("def area(width: int) -> int:\n    return width\n")
    (folder / PACKAGE / "plans" / "use.py").write_text(use)
    return folder


@pytest.mark.parametrize(("use", "status"), [(RIGHT, 0), (RIGHT.replace("area(width)", "area(str(width))"), 1)])
def test_a_wrong_call_is_found(tmp_path: Path, use: str, status: int) -> None:
    pytest.importorskip("mypy")
    assert check(packages(tmp_path, use)) == status


def test_all_sources_are_copied_and_old_ones_left_out(tmp_path: Path) -> None:
    old = tmp_path / PACKAGE / "plans" / "gone.py"
    old.parent.mkdir(parents=True)
    old.touch()
    copy_sources(tmp_path)
    assert not old.exists()
    assert (tmp_path / PACKAGE / "nodes" / "host" / "__init__.py").is_file()
    assert (tmp_path / PACKAGE / "plans" / "plan" / "plan.py").is_file()
