"""The profile of our own time adds up, its variant without an order does the same work, and its script runs on toys."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from sparse_vdit.kernels.attention import sparse_attention
from sparse_vdit.kernels.order import ORDERS
from tolerances import RELATIVE_L2, relative_l2

from benchmarks.kernels import losses, profile_own_time
from benchmarks.kernels.kernel_cases import Case, random_qkv
from benchmarks.kernels.kernel_methods import METHODS
from benchmarks.kernels.kernel_shapes import TINY, build_lists
from benchmarks.report.own_time_table import own_time_table
from benchmarks.report.result_files import NOT_YET

DEVICE = torch.device("cpu")


@pytest.fixture(scope="module")
def case() -> Case:
    shape = TINY["tiny"]
    lists, mixes, routed = build_lists(shape, (1.0, 0.4))
    return Case(*random_qkv(shape, DEVICE, torch.float32), lists, mixes[0.4], routed[1], mixes[1.0][0])


def test_losses_are_all_that_a_call_takes_beyond_its_ideal(case: Case) -> None:
    dense = {"best": 10.0, "own": 14.0}
    found = losses.losses(case, METHODS["ours_torch"], 9.0, dense, workers=4, in_kernels=8.0)
    assert sum(found.values()) == pytest.approx(9.0 - 10.0 * case.density(), abs=1e-3)
    assert found["kernel against the best dense one"] == pytest.approx(4 * case.density(), abs=1e-3)
    assert 0 <= found["imbalance"] < 9
    assert "quantizing or choosing" not in found and "imbalance" not in losses.losses(
        case, METHODS["ours_torch"], 9.0, dense, None, 8.0
    )


def test_lists_in_sequence_do_the_same_on_sorted_tokens(case: Case) -> None:
    plain = losses.in_sequence(case.lists)
    for number in set(case.head_lists):
        order = case.lists.index[case.lists.orders[number].long()].long()
        truth = sparse_attention(case.q, case.k, case.v, case.lists, [number] * 3, "torch")
        found = sparse_attention(*(x[:, order] for x in (case.q, case.k, case.v)), plain, [number] * 3, "torch")
        assert relative_l2(found, truth[:, order]) < RELATIVE_L2[torch.float32]
    assert plain.densities == case.lists.densities and len(plain.index) == len(ORDERS)


def test_kernels_of_a_call_are_named_longest_first(case: Case) -> None:
    found = losses.kernel_times(METHODS["ours_torch"].make(case)[0], DEVICE)
    shown = [ms for name, ms in found.items() if name != "others"]
    assert 3 <= len(shown) <= losses.SHOWN and shown == sorted(shown, reverse=True)
    assert any("bmm" in name or "attention" in name for name in found)  # short rows are multiplied, long ones attended


def test_dense_attention_that_does_not_run_is_left_out(case: Case) -> None:
    found = losses.dense_times(case, ("fa3", "sdpa"), "ours_torch")
    assert found["best"] > 0 and found["own"] > 0
    with pytest.raises(RuntimeError, match="no dense attention runs here: fa3: "):
        losses.dense_times(case, ("fa3",), "ours_torch")


class Event:
    """Of the profiler: `where` it ran, and how long."""

    def __init__(self, key: str, where: str, us: float):
        self.key, self.device_type = key, getattr(torch.autograd.DeviceType, where)
        self.self_device_time_total = self.self_cpu_time_total = us


def test_kernels_of_a_gpu_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators are told the time of the kernels that they launch."""
    events = [Event("aten::copy_", "CPU", 700.0), Event("copy", "CUDA", 700.0), Event("attention", "CUDA", 2000.0)]

    class Profile:
        def __init__(self, activities: list):
            assert torch.profiler.ProfilerActivity.CUDA in activities

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def key_averages(self) -> list[Event]:
            return events

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert losses.kernel_times(lambda: None, torch.device("cuda")) == {"attention": 2.0, "copy": 0.7}


def test_no_row_begins_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_own_time.results, "FOLDER", profile_own_time.results.FOLDER)
    options = ["--device", "cpu", "--tiny", "--folder", str(tmp_path), "--minutes", "-1"]
    monkeypatch.setattr(sys, "argv", ["profile_own_time.py", *options])
    profile_own_time.main()
    (file,) = tmp_path.glob("*.json")
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 3 and all("no time left" in row["skipped"] for row in rows)


def test_the_script_profiles_a_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_own_time.results, "FOLDER", profile_own_time.results.FOLDER)
    options = ["--device", "cpu", "--tiny", "--folder", str(tmp_path), "--densities", "0.4"]
    monkeypatch.setattr(sys, "argv", ["profile_own_time.py", *options])
    profile_own_time.main()
    (file,) = tmp_path.glob("profile_own_time-cpu-*.json")
    result = json.loads(file.read_text())
    (row,) = result["rows"]
    assert "skipped" not in row and row["method"] == "ours_torch" and row["shape"] == "tiny"
    assert sum(row["losses"].values()) == pytest.approx(row["ms"] - row["ideal_ms"], abs=0.01)
    most = sorted(row["losses"], key=row["losses"].get, reverse=True)[:3]
    assert row["largest"] == [name for name in most if row["losses"][name] > 0] != []
    assert row["fraction_of_roofline"] > 0 and row["bound"] in ("products", "memory")
    older = {**result, "commit": "0123456789abcdef", "rows": [{**row, "ms": 1234.5}]}
    table = own_time_table([older, result])
    assert "| 1234.50 |" in table and "Before: commit 0123456789." in table
    assert all(f"{name} {row['losses'][name]:.2f}" in table for name in row["largest"])
    other = {**older, "device": "another"}
    assert "1234" not in own_time_table([other, result]) and own_time_table([]) == NOT_YET


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "cpu"], "--device cpu goes with --tiny alone"),
        (["--device", "cpu", "--tiny", "--densities", "0"], "--densities 0.0 is not above 0 and below 1"),
    ],
)
def test_wrong_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, options: list[str], says: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["profile_own_time.py", *options])
    with pytest.raises(SystemExit, match="2"):
        profile_own_time.arguments()
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
