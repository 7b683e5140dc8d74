"""Which kept measurements a run begins with: what it can read and add to, measured where it samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibrations import ALL, NONE, calibration, first_run, generate
from sample_plans import listing
from sparse_vdit.plans import profile_files
from sparse_vdit.plans.profile_files import load_profile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Calibrated plans after the first run."""
    for name, content in first_run().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_profile_that_cannot_be_opened_just_now_is_there_again_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(folder)

    def once(*_: object) -> None:
        monkeypatch.undo()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(profile_files, "safe_open", once)
    run = calibration(folder, prompt="prompt b")
    assert run.engine.planned is None and listing(folder) == before
    assert generate(run) == [NONE, NONE, ALL, ALL]
    assert "could not be read: [Errno 24] Too many open files" in run.report()
    assert listing(folder).keys() == before.keys()
    (profile,) = folder.glob("*.safetensors")
    assert load_profile(profile).header.prompts == ("prompt a", "prompt b")
