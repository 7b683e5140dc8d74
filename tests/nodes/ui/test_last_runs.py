"""Runs that are kept for a page that is loaded again: by workflow and node, no more than there is room for."""

from __future__ import annotations

import json

import pytest
from sparse_vdit.nodes.host.ui.last_runs import NO_WORKFLOW, LastRuns


def test_the_last_run_of_each_node_of_a_workflow() -> None:
    kept = LastRuns()
    kept.keep("one", "5:12", {"report": "first"})
    kept.keep("one", "5:12", {"report": "second"})
    kept.keep("one", "7", {"report": "of another node"})
    kept.keep("two", "7", {"report": "of another workflow"})
    assert kept.of("one") == {"5:12": {"report": "second"}, "7": {"report": "of another node"}}
    assert kept.of("two") == {"7": {"report": "of another workflow"}}
    assert kept.of("three") == {}


@pytest.mark.parametrize("workflow", [None, "", NO_WORKFLOW, 7, ["one"], "x" * 101])
def test_a_workflow_without_a_number_of_its_own_keeps_nothing(workflow: object) -> None:
    kept = LastRuns()
    kept.keep(workflow, "7", {"report": "whose?"})
    assert kept.of(str(workflow)) == {}


def test_the_oldest_are_forgotten_where_room_is_short() -> None:
    run = {"report": "r" * 89}
    kept = LastRuns(max_bytes=3 * len(json.dumps(run)) + 5)
    for node in ("1", "2", "3", "1", "4"):  # 1 ran again, so that 2 is the oldest
        kept.keep("one", node, run)
    assert list(kept.of("one")) == ["3", "1", "4"]
    kept.keep("one", "5", {"report": "r" * 1000})  # has no room at all
    assert kept.of("one") == {}
