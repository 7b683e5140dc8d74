"""What a report shows, and where: a run that cannot be shown is still reported, and costs no finished video."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_stand_ins import Server, host_module
from runs import forward, line, policy, qkv, run_of
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.core.fallback import Dense
from sparse_vdit.nodes.host.session.run import Run
from sparse_vdit.nodes.host.ui.summary import detail

report, viewer = host_module("ui.report"), host_module("ui.viewer")

OURS = (
    (1, "before", {}, {"extra_pnginfo": {"workflow": {"id": "another"}}}, [], {}),
    (2, "now", {}, {"extra_pnginfo": {"workflow": {"id": "ours"}}}, [], {}),
)
"""What ComfyUI's queue says of workflows at work."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple]]:
    """What a server is told to send."""
    told: list[tuple] = []
    server = SimpleNamespace(
        client_id="browser",
        last_prompt_id="now",
        prompt_queue=SimpleNamespace(get_current_queue_volatile=lambda: (list(OURS), [])),
        send_progress_text=lambda *args: told.append(args),
        send_sync=lambda *args: told.append(args),
    )
    monkeypatch.setattr(Server, "instance", server)
    yield told


@pytest.fixture
def run() -> Run:
    made = run_of(policy(Diagonal(0), layers=2))
    forward(made, 0.5, qkv())
    return made


def test_a_run_is_told_of_on_its_node_and_kept_for_its_workflow(run: Run, sent: list[tuple]) -> None:
    report.report(run, "7", strict=True)
    (told,) = sent
    assert (told[0], told[2]) == ("sparse_vdit.ran", "browser")
    assert (told[1]["workflow"], told[1]["node"], told[1]["line"]) == ("ours", "7", line(run))
    assert told[1]["verdict"].startswith("Sparse attention ran: 2 of 2 calls sparse at density ")
    assert line(run).startswith(f"Sparse-vDiT: {told[1]['verdict']}. ") and told[1]["report"] in line(run)
    assert (told[1]["sparse"], told[1]["layers"]) == (2, {"0": {"sparse": 1}, "1": {"sparse": 1}})
    assert viewer._last_runs.of("ours")["7"]["line"] == line(run)


def test_what_is_said_on_the_way_is_of_its_workflow(sent: list[tuple]) -> None:
    report.say("measuring", "7")
    assert sent == [("sparse_vdit.said", {"node": "7", "workflow": "ours", "text": "measuring"}, "browser")]
    Server.instance.client_id = None  # a client that is no browser
    report.say("measuring", "7")
    assert len(sent) == 1


def test_a_run_that_cannot_be_shown(
    run: Run, sent: list[tuple], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_view(*_: object) -> dict:
        raise MemoryError("no room for a view")

    monkeypatch.setattr(viewer, "ran_plan", no_view)
    with caplog.at_level(logging.ERROR, logger="sparse_vdit"):
        report.report(run, "7", strict=True)
    ((kind, told, _),) = sent  # its words are
    assert kind == "sparse_vdit.said" and told["text"].startswith("Sparse attention ran: 2 of 2 calls")
    assert "could not be sent to the plan viewer" in caplog.text
    assert "no room for a view" in caplog.text


@pytest.mark.parametrize("extra", [{}, {"extra_pnginfo": None}, {"extra_pnginfo": {"workflow": "text"}}])
def test_a_workflow_without_a_number(run: Run, sent: list[tuple], extra: dict) -> None:
    """As clients that are no browser send it: the run is told of, and of no workflow."""
    queue = Server.instance.prompt_queue
    queue.get_current_queue_volatile = lambda: ([(2, "now", {}, extra, [], {})], [])
    report.report(run, "7", strict=True)
    assert sent[0][1]["workflow"] is None


def test_nothing_is_shown_without_a_node_or_a_server(run: Run, sent: list[tuple]) -> None:
    report.report(run, None, strict=True)
    Server.instance = None
    report.report(run, "7", strict=True)
    assert sent == []


def test_strict_is_an_error_where_nothing_ran_sparse(run: Run, sent: list[tuple]) -> None:
    dense = run_of(policy(Diagonal(0), start=0.4, layers=2))
    forward(dense, 0.5, qkv())
    for of in (dense, fallback.NO_PLAN):
        report.report(of, "7", strict=False)
        with pytest.raises(report.NothingSparseError, match="Nothing ran sparse and strict is on"):
            report.report(of, "7", strict=True)
    assert sent[-1][1]["view"] is None and sent[-1][1]["sparse"] == 0


@pytest.mark.parametrize(
    ("why", "level"), [(None, logging.INFO), (fallback.NO_PLAN, logging.WARNING), (fallback.NO_STEPS, logging.INFO)]
)
def test_a_run_without_a_sparse_call_is_a_warning(
    run: Run, caplog: pytest.LogCaptureFixture, why: Dense | None, level: int
) -> None:
    """But a sampler without steps, whose run nobody misses."""
    with caplog.at_level(logging.INFO, logger="sparse_vdit"):
        report.report(why or run, None, strict=level == logging.INFO)
    assert [record.levelno for record in caplog.records] == [level]


def test_details_are_written_to_a_file_of_their_own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the temporary folder where the output folder cannot be written."""
    locked, temporary = tmp_path / "file", tmp_path / "temporary"
    locked.write_text("a file where the folder should be")
    monkeypatch.setattr(report.folder_paths, "get_output_directory", lambda: str(locked), raising=False)
    monkeypatch.setattr(report.folder_paths, "get_temp_directory", lambda: str(temporary), raising=False)
    found = detail(run)
    assert report.write_detail(found).startswith(f"details in {temporary}")
    assert report.write_detail(found).startswith(f"details in {temporary}")
    files = list(temporary.rglob("*.json"))
    assert len(files) == 2 and all(json.loads(path.read_text()) == found for path in files)
    monkeypatch.setattr(report.folder_paths, "get_temp_directory", lambda: str(locked))
    assert report.write_detail(found) == "details are in the log alone, no folder could be written"
