"""The command for whoever has a GPU, tried on a CPU: every step has its row, whatever becomes of the others."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from load_pack import ROOT

from benchmarks.models.whole_models import MODELS
from benchmarks.report import gpu, gpu_machine, gpu_report, gpu_steps
from benchmarks.report.gpu_steps import FAILED, LATE, NO_GPU, PASSED, SKIPPED, STEPS, Found, Step, Task

GIB = 2**30


def says(text: str, code: int = 0) -> list[str]:
    return [sys.executable, "-c", f"print({text!r}); raise SystemExit({code})"]


def step(name: str, command: object, found: Found | None = None, seconds: float = 30.0) -> Step:
    """A step that finds what it is given, or what its log says."""
    read = (lambda task, log: Found(PASSED, log.strip())) if found is None else lambda task, log: found
    return Step(name, seconds, command if callable(command) else lambda task: command, read)


def raising(task: Task) -> list[str]:
    raise OSError("no space left")


def test_every_step_survives_the_failure_of_another(tmp_path: Path) -> None:
    steps = (
        step("machine", says(""), Found(PASSED, "a card", [{"fitting": ["wan1_3b_480p"], "gpu": "a card"}])),
        step("breaks", says("the reason", 3)),
        step("cannot begin", raising),
        step("is not there", "no ComfyUI"),
        step("no program", ["no/such/program"]),
        step("comes last", lambda task: says(f"fitting: {task.models}")),
    )
    results = gpu.run_steps(steps, tmp_path, "cuda", 1.0)
    found = {name: (one.status, one.said) for name, (one, _) in results.items()}
    assert list(found) == [step.name for step in steps]
    assert found["breaks"] == (FAILED, "exit code 3: the reason")
    assert found["cannot begin"] == (FAILED, "OSError: no space left")
    assert found["is not there"] == (SKIPPED, "no ComfyUI")
    assert found["no program"][0] == FAILED
    assert found["comes last"] == (PASSED, "fitting: ('wan1_3b_480p',)")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["status"] for one in report["steps"].values()] == [status for status, _ in found.values()]
    page = (tmp_path / "report.md").read_text()
    assert all(f"| {step.name} | {found[step.name][0]} |" in page for step in steps)


def test_a_step_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    """What it has found until then is in the report."""
    command = [sys.executable, "-c", "import time; print('at work', flush=True); time.sleep(60)"]
    results = gpu.run_steps((step("hangs", command),), tmp_path, "cuda", 3 / 60)
    found, seconds = results["hangs"]
    assert found.status == LATE and found.said.endswith("until then: at work") and seconds < 20


def test_without_a_gpu_nothing_runs(tmp_path: Path) -> None:
    no_gpu = Found(SKIPPED, NO_GPU, [{"fitting": [], "gpu": None}])
    results = gpu.run_steps((step("machine", says(""), no_gpu), step("other", raising)), tmp_path, "cuda", 1.0)
    assert [found.said for found, _ in results.values()] == [NO_GPU, NO_GPU]


def test_what_the_tests_say_is_read_until_they_are_stopped() -> None:
    log = "\n".join([
        "tests/test_a.py::test_x[1 2-b] PASSED   [ 10%]", "tests/test_a.py::test_x[3] FAILED [ 20%]",
        "tests/test_a.py::test_y SKIPPED (no GPU) [ 30%]", "tests/test_a.py::test_z ",
    ])  # fmt: skip
    task = Task(Path("."), "cuda", 1.0)
    found = gpu_steps.read_tests(task, log)
    assert (found.status, found.said) == (FAILED, "1 passed, 1 failed, 1 skipped; tests/test_a.py::test_x[3]")
    assert gpu_steps.read_tests(task, log.replace("FAILED", "PASSED")).status == PASSED
    assert gpu_steps.read_tests(task, "tests/test_a.py::test_y SKIPPED (no GPU)").status == SKIPPED
    assert gpu_steps.read_tests(task, "python: No module named pytest").status == SKIPPED
    assert gpu_steps.read_tests(task, "E   ImportError").said == "E   ImportError"


def test_figures_are_read_from_the_results(tmp_path: Path) -> None:
    task = Task(tmp_path, "cuda", 1.0)
    assert gpu_steps.read_kernels(task, "no GPU").status == gpu_steps.read_whole(task, "no GPU").status == FAILED
    rows = [
        {"shape": "a", "method": "ours_x", "density": 0.25, "fraction_of_best_dense": 0.6},
        {"shape": "a", "method": "ours_y", "density": 0.2, "fraction_of_best_dense": 0.6},
        {"shape": "a", "method": "flex", "density": 0.1, "fraction_of_best_dense": 0.9},
        {"shape": "a", "method": "ours_x", "density": 1.0, "fraction_of_best_dense": 0.9},
        {"shape": "a", "method": "ours_z", "density": 0.1, "skipped": "broken"},
    ]
    (tmp_path / "kernels-card-1.json").write_text(json.dumps({"rows": rows}))
    found = gpu_steps.read_kernels(task, "")
    assert found.said == "times as fast as the best dense kernel in 16 bits: a 3.00 (ours_y, density 0.2)"
    models = [{"model": "m", "method": "ours_x", "seconds_per_forward": 1.0, "speedup": 1.5}]
    (tmp_path / "end_to_end-card-1.json").write_text(json.dumps({"rows": models}))
    assert gpu_steps.read_whole(task, "").said.endswith("m 1.50 (ours_x)")


@pytest.mark.parametrize(("method", "error"), [("ours_bf16", 0.7), ("ours_int8", math.nan), ("ours_bf16", 0.02)])
def test_a_wrong_kernel_fails_its_step_and_is_never_the_fastest(tmp_path: Path, method: str, error: float) -> None:
    rows = [
        {"shape": "a", "method": method, "density": 0.1, "fraction_of_best_dense": 0.9, "rel_l2": error},
        {"shape": "a", "method": "ours_x", "density": 0.2, "fraction_of_best_dense": 0.6, "rel_l2": 0.004},
        {"shape": "a", "method": "ours_int8", "density": 0.2, "fraction_of_best_dense": 0.5, "rel_l2": 0.02},
    ]
    (tmp_path / "kernels-card-1.json").write_text(json.dumps({"rows": rows}))
    found = gpu_steps.read_kernels(Task(tmp_path, "cuda", 1.0), "")
    assert found.status == FAILED
    assert found.said.startswith(f"a {method}: error {error}, at most")
    assert found.said.endswith("3.00 (ours_x, density 0.2)")
    assert gpu_report.finite({"rows": [{"rel_l2": math.nan}, 1.5]}) == {"rows": [{"rel_l2": None}, 1.5]}


def test_a_backend_that_cannot_run_here_is_no_failure(tmp_path: Path) -> None:
    kind = {"dtype": "bfloat16", "head_dim": 64, "int8": True, "routed": False}
    passed = {"backend": "compiled", **kind, "refusal": None, "reason": None}
    cannot = {"backend": "triton", **kind, "refusal": "Triton is not installed", "reason": None}
    wrong = {"backend": "compiled", **kind, "refusal": None, "reason": "its self-test failed: no image"}
    task = Task(tmp_path, "cuda", 1.0)

    def found(*rows: dict) -> gpu_steps.Found:
        (tmp_path / "self_test.json").write_text(json.dumps(rows))
        return gpu_steps.read_self_test(task, "")

    assert found(passed, cannot).status == PASSED
    assert found(passed, cannot).said == (
        "1 of 1 kinds of kernel passed; triton cannot run here: Triton is not installed"
    )
    assert found(cannot).status == SKIPPED
    assert found(passed, wrong).status == FAILED
    assert "compiled bfloat16 head_dim 64, in 8 bits: its self-test failed: no image" in found(passed, wrong).said


def test_models_that_fit_a_card() -> None:
    assert gpu_machine.fitting(0) == []
    assert gpu_machine.fitting(8 * GIB) == ["wan1_3b_480p"]
    assert "wan14b_720p" not in gpu_machine.fitting(24 * GIB)
    assert gpu_machine.fitting(140 * GIB) == list(MODELS)


def test_the_steps_take_nine_minutes_at_most() -> None:
    assert gpu.MINUTES <= 9
    assert "9.0 min at most" in gpu.estimate(STEPS, gpu.MINUTES)
    assert {step.name for step in STEPS} == {"machine", "self-tests", "tests", "kernels", "whole models"}


@pytest.mark.slow
def test_the_whole_command_on_toys(tmp_path: Path) -> None:
    """The tests of hardware skip; all else runs, and what is missing here is named."""
    command = [sys.executable, "-m", "benchmarks.report.gpu", "--device", "cpu", "--folder", tmp_path]
    subprocess.run([*command, "--minutes", "6"], cwd=ROOT, capture_output=True, timeout=400)
    steps = json.loads((tmp_path / "report.json").read_text())["steps"]
    assert list(steps) == [step.name for step in STEPS]
    assert steps["machine"]["said"].startswith(NO_GPU) and steps["tests"]["said"].startswith(NO_GPU)
    assert steps["kernels"]["status"] == PASSED, steps["kernels"]
    assert steps["whole models"]["status"] in (PASSED, SKIPPED), steps["whole models"]
    assert [row["reason"] for row in steps["self-tests"]["rows"]] == [None, None]  # interpreted, and on the machine
    page = (tmp_path / "report.md").read_text()
    assert "the numbers mean nothing" in page and "## Kernels" in page
