"""Latency tables in ComfyUI: measured once, kept, read again, and left out where measuring fails."""

from __future__ import annotations

import pytest
from comfyui.scripts import run_script

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What measure_latencies.py found."""
    folder = tmp_path_factory.mktemp("latencies")
    return run_script("measure_latencies.py", folder, untested="latency tables were not tested")


def test_nothing_is_measured_where_no_gpu_is(found: dict) -> None:
    assert found["elsewhere"] is None


def test_a_table_is_measured_once_and_kept(found: dict) -> None:
    assert found["first"]["dense"] > 0
    assert found["launches"] > 0
    assert found["kept"] == found["first"]
    assert found["again"] == found["launches"], "measured a second time"
    (place, lanes), _ = found["places"].items()
    assert lanes == found["first"]
    for fact in ("cpu", "24 in bfloat16", "2^9", "torch", "attention_"):
        assert fact in place


def test_the_search_goes_by_the_table_of_its_heads(found: dict) -> None:
    assert found["plan"]["times"].startswith("measured on cpu")
    assert found["plan"]["attention_speedup"] > 0
    _, (place, _) = found["places"].items()
    assert "heads of 8 in" in place


def test_a_damaged_file_is_measured_anew(found: dict) -> None:
    assert found["anew"] > found["again"]
    assert found["damaged"].keys() == found["first"].keys()


def test_without_memory_flops_count_and_the_user_is_told(found: dict) -> None:
    assert found["failed"] is None
    assert not found["left"], "something was kept of a measurement that failed"
    *measured, failed = found["said"]
    assert all("takes about 20 s" in text for text in measured) and len(measured) == 3
    assert "FLOPs count instead" in failed and "memory ran out" in failed
