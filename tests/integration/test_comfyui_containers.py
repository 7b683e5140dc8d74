"""Attention containers of ComfyUI 0.32 and newer: who computes attention may free q, k and v before it is done."""

from __future__ import annotations

import pytest
from comfyui.recording import record
from comfyui.scripts import run_script

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What measure_containers.py found, by case."""
    folder = tmp_path_factory.mktemp("containers")
    return run_script("measure_containers.py", folder, untested="attention containers were not tested")


@pytest.mark.parametrize(
    ("case", "sparse_calls"),
    [
        ("sparse", 4),
        ("dense, model's own", 0),
        ("dense, chained, knows containers", 0),
        ("dense, chained, does not", 0),
    ],
)
def test_containers_are_emptied_and_change_nothing(found: dict, case: str, sparse_calls: int) -> None:
    measured = found[case]
    assert measured["equal"]
    assert measured["sparse"] == sparse_calls
    for way in ("containers", "tensors"):
        assert measured[way]["taken"]
        assert measured[way]["alive"] == 0  # nothing of q, k, v is left for what comes after attention
    with_containers, without = (measured[way]["peak"] for way in ("containers", "tensors"))
    assert with_containers <= without
    record("containers", attention=case, peak=with_containers, peak_without=without)


def test_a_chained_backend_that_frees_early_needs_less_memory(found: dict) -> None:
    measured = found["dense, chained, knows containers"]
    saved = measured["tensors"]["peak"] - measured["containers"]["peak"]
    assert saved > 0.5 * measured["containers"]["one"]
