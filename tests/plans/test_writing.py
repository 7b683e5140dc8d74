"""Files that several processes write."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
from sparse_vdit.plans.plan.writing import alone, write_new

WRITERS, ENTRIES = 3, 15


def _add(path: Path, writer: int) -> None:
    for number in range(ENTRIES):
        with alone(path):
            kept = json.loads(path.read_bytes()) if path.exists() else []
            time.sleep(0.002)  # so that others want it meanwhile
            write_new(path, json.dumps([*kept, [writer, number]]).encode(), overwrite=True)


def test_no_entry_of_several_writers_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(path, writer)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    kept = json.loads(path.read_bytes())
    assert sorted(kept) == [[writer, number] for writer in range(WRITERS) for number in range(ENTRIES)]
    assert [file.name for file in tmp_path.iterdir()] == ["kept.json"]


def test_a_killed_writer_holds_up_only_once(tmp_path: Path) -> None:
    lock = tmp_path / ".kept.json.lock"
    lock.touch()
    with alone(tmp_path / "kept.json", wait=0.1):
        assert lock.exists()
    assert not lock.exists()


def test_a_folder_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    with alone(tmp_path / "missing" / "kept.json"):
        pass
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "kept.json"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
