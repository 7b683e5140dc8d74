"""A run that cannot be shown is still reported, and costs no finished video. ComfyUI's modules are stand-ins."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
from races import TestClock, forward, qkv, start

NAME = "sparse_vdit.nodes.host.reports.report"


RUNNING = (
    (1, "before", {}, {"extra_pnginfo": {"workflow": {"id": "another"}}}, [], {}),
    (2, "now", {}, {"extra_pnginfo": {"workflow": {"id": "ours"}}}, [], {}),
)
"""What ComfyUI's queue says of workflows at work."""


@pytest.fixture
def sent() -> list[tuple]:
    return []


@pytest.fixture
def report(sent: list[tuple], monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, of a server that keeps what is sent in `sent`; nothing imported here is left behind."""
    server = SimpleNamespace(
        client_id="browser",
        last_prompt_id="now",
        prompt_queue=SimpleNamespace(get_current_queue_volatile=lambda: (list(RUNNING), [])),
        send_progress_text=lambda *told: sent.append(told),
        send_sync=lambda *told: sent.append(told),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    monkeypatch.setitem(sys.modules, "folder_paths", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(web=None))
    before = set(sys.modules)
    yield importlib.import_module(NAME)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_run_that_cannot_be_shown(
    report: ModuleType, sent: list[tuple], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(TestClock(dense=10.0, exact=4.0))
    forward(run, 0.5, qkv())
    report.report(run, "7", strict=True)
    assert [told[0] for told in sent] == [run.report(), "sparse_vdit.ran"]
    assert sent[1][1]["workflow"] == "ours"
    sent.clear()

    def viewed() -> dict:
        raise MemoryError("no room for a view")

    monkeypatch.setattr(run.engine, "viewed", viewed)
    with caplog.at_level(logging.ERROR, logger="sparse_vdit"):
        report.report(run, "7", strict=True)
    assert [told[0] for told in sent] == [run.report()]
    assert "could not be told of the run" in caplog.text
    assert "no room for a view" in caplog.text


@pytest.mark.parametrize("extra", [{}, {"extra_pnginfo": None}, {"extra_pnginfo": {"workflow": "text"}}])
def test_a_workflow_without_a_number(
    report: ModuleType, sent: list[tuple], extra: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clients that are no browser send it: the run is told of, and of no workflow."""
    monkeypatch.setitem(globals(), "RUNNING", ((2, "now", {}, extra, [], {}),))
    run = start(TestClock(dense=10.0, exact=4.0))
    forward(run, 0.5, qkv())
    report.report(run, "7", strict=True)
    assert sent[1][1]["workflow"] is None
