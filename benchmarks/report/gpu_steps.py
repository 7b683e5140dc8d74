"""The steps of `gpu.py`: what each runs, how long it may take, and what its files and its log say."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from comfyui.installation import comfyui_path, comfyui_python

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, SKIPPED, LATE = "passed", "failed", "skipped", "out of time"
NO_GPU = "no GPU"
SHAPES = ("wan14b_720p", "hunyuan_720p", "cogvideox15")
DENSITIES = ("0.25", "0.1")
FIRST_TESTS = ("test_gpu_runs.py", "test_compiled_backend.py")
METHODS = ("sdpa_flash", "sdpa_cudnn", "ours_bf16", "ours_int8")
MAX_ERRORS = {"ours_int8": 3e-2}
"""Relative L2 of a right kernel's output, by method; MAX_ERROR for all others."""

MAX_ERROR = 1e-2
ENDING = 15  # seconds that a script has to end by itself before it is stopped
Row = dict[str, object]


@dataclass
class Found:
    """What came of a step.

    Attributes:
        status: one of PASSED, FAILED, SKIPPED, LATE.
        said: in one line.
        rows: what was measured.
    """

    status: str
    said: str
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """What a step is given.

    Attributes:
        folder: for files.
        device: `cuda`, or `cpu` to try the command.
        seconds: that the step may take.
        models: that fit the GPU's memory.
    """

    folder: Path
    device: str
    seconds: float
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One of them.

    Attributes:
        seconds: that it may take; what a step leaves goes to the next.
        command: what to run, or why it cannot be.
        read: what it found, of the files it left and its log.
    """

    name: str
    seconds: float
    command: Callable[[Task], list[str] | str]
    read: Callable[[Task, str], Found]


def script(name: str, *arguments: object, python: str = sys.executable) -> list[str]:
    """A benchmark's command."""
    return [python, "-m", f"benchmarks.{name}", *map(str, arguments)]


def read_json(file: Path) -> object:
    """What a file holds; None where it is missing or damaged."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def newest(folder: Path, benchmark: str) -> list[Row]:
    """Rows of the latest results of a benchmark."""
    files = sorted(folder.glob(f"{benchmark}-*.json"), key=lambda file: file.stat().st_mtime)
    content = read_json(files[-1]) if files else None
    return content["rows"] if isinstance(content, dict) else []


def run_machine(task: Task) -> list[str]:
    return script("report.gpu_machine", "--file", task.folder / "machine.json")


def read_machine(task: Task, log: str) -> Found:
    """The GPU and its memory."""
    found = read_json(task.folder / "machine.json")
    if not isinstance(found, dict):
        return Found(FAILED, last_line(log))
    if found["gpu"] is None:
        return Found(SKIPPED, f"{NO_GPU} that torch {found['versions'].get('torch')} can use", [found])
    return Found(PASSED, f"{found['gpu']}, {found['memory_bytes'] / 2**30:.0f} GiB", [found])


def run_self_test(task: Task) -> list[str]:
    return script("kernels.gpu_self_test", "--file", task.folder / "self_test.json", "--device", task.device)


def read_self_test(task: Task, log: str) -> Found:
    """How many kinds of kernel passed, which ones did not, and which backend cannot run here."""
    rows = read_json(task.folder / "self_test.json")
    if not isinstance(rows, list):
        return Found(FAILED, last_line(log))
    tested = [row for row in rows if row.get("refusal") is None]
    wrong = [f"{kind(row)}: {row['reason']}" for row in tested if row["reason"]]
    refusals = {row["backend"]: row["refusal"] for row in rows if row.get("refusal")}
    cannot = [f"{backend} cannot run here: {refusal}" for backend, refusal in refusals.items()]
    said = "; ".join([f"{len(tested) - len(wrong)} of {len(tested)} kinds of kernel passed", *wrong[:3], *cannot])
    return Found(FAILED if wrong else PASSED if tested else SKIPPED, said, rows)


def kind(row: Row) -> str:
    """A kind of kernel in words."""
    options = [name for name, chosen in (("in 8 bits", row["int8"]), ("routed", row["routed"])) if chosen]
    return ", ".join([f"{row['backend']} {row['dtype']} head_dim {row['head_dim']}", *options])


def run_tests(task: Task) -> list[str]:
    """The files that have tests of hardware, the quickest to say something first."""
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text(encoding="utf-8")]
    files.sort(key=lambda file: (file.name not in FIRST_TESTS, file.name))
    paths = [file.relative_to(ROOT).as_posix() for file in files]
    return [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", *paths]


def read_tests(task: Task, log: str) -> Found:
    """How many passed until the end, or until the time was over."""
    if "No module named pytest" in log:
        return Found(SKIPPED, f"{sys.executable} has no pytest")
    results = dict(re.findall(r"^(tests\S.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", log, re.MULTILINE))
    counted = Counter(results.values())
    bad = [name for name, result in results.items() if result in ("FAILED", "ERROR")]
    said = ", ".join(f"{count} {result.lower()}" for result, count in counted.items()) or last_line(log)
    rows = [{"test": name, "result": result} for name, result in results.items() if result != "PASSED"]
    if bad or not counted:
        return Found(FAILED, "; ".join([said, *bad[:3]]), rows)
    if set(counted) == {"SKIPPED"}:
        return Found(SKIPPED, f"{NO_GPU}: {said}", rows)
    return Found(PASSED, said, rows)


def run_kernels(task: Task) -> list[str]:
    chosen = ["--device", "cpu", "--quick"] if task.device == "cpu" else ["--shapes", *SHAPES]
    minutes = max(0.1, (task.seconds - ENDING) / 60)
    return script("kernels.kernels", "--folder", task.folder, "--minutes", minutes, "--densities", *DENSITIES, *chosen)


def read_kernels(task: Task, log: str) -> Found:
    """How much faster than the best dense kernel in 16 bits the fastest of ours is, for each shape; kernels that are
    wrong."""
    rows = newest(task.folder, "kernels")
    wrong = [
        f"{row['shape']} {row['method']}: error {row['rel_l2']}, at most {limit(row)} is right"
        for row in rows
        if is_wrong(row)
    ]
    fastest: dict[str, tuple[float, str]] = {}
    for row in rows:
        share = row.get("fraction_of_best_dense")
        if row["method"].startswith("ours_") and row["density"] < 1 and share and not is_wrong(row):
            what = f"{row['method']}, density {row['density']}"
            fastest[row["shape"]] = max(fastest.get(row["shape"], (0.0, "")), (share / row["density"], what))
    if not fastest:
        return Found(FAILED, "; ".join(wrong[:3]) or last_line(log), rows)
    times = ", ".join(f"{shape} {times:.2f} ({what})" for shape, (times, what) in fastest.items())
    said = [*wrong[:3], f"times as fast as the best dense kernel in 16 bits: {times}"]
    return Found(FAILED if wrong else PASSED, "; ".join(said), rows)


def is_wrong(row: Row) -> bool:
    """Whether one of our kernels is further from exact attention than rounding explains."""
    error = row.get("rel_l2")
    return row["method"].startswith("ours_") and error is not None and not error <= limit(row)  # true for NaN too


def limit(row: Row) -> float:
    """Largest error of a right kernel."""
    return MAX_ERRORS.get(row["method"], MAX_ERROR)


def run_whole(task: Task) -> list[str] | str:
    """Each model by dense attention and by ours."""
    comfyui = comfyui_path()
    if comfyui is None:
        return "no ComfyUI above this folder or in ~/comfy, set COMFYUI_PATH to one"
    if task.device == "cpu":
        chosen = ["--tiny", "--device", "cpu", "--models", "tiny_wan", "--methods", "sdpa_flash", "ours_bf16"]
    elif task.models:
        chosen = ["--models", *task.models, "--methods", *METHODS]
    else:
        return "no model fits the GPU's memory, or its size is not known"
    minutes = max(0.1, (task.seconds - ENDING) / 60)
    shared = ("--plans", "0.25", "--minutes", minutes, "--folder", task.folder)
    return script("models.end_to_end", *shared, *chosen, python=comfyui_python(comfyui))


def read_whole(task: Task, log: str) -> Found:
    """Forwards of ours beside dense ones."""
    rows = newest(task.folder, "end_to_end")
    ours = [row for row in rows if row["method"].startswith("ours_") and "seconds_per_forward" in row]
    if not ours:
        return Found(FAILED, last_line(log), rows)
    speedups = [f"{row['model']} {row['speedup']:.2f} ({row['method']})" for row in ours if row.get("speedup")]
    return Found(PASSED, f"times as fast as with the best dense attention: {', '.join(speedups)}", rows)


def last_line(log: str) -> str:
    """The end of a log, where errors say what is wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


STEPS = (
    Step("machine", 40, run_machine, read_machine),
    Step("self-tests", 60, run_self_test, read_self_test),
    Step("tests", 140, run_tests, read_tests),
    Step("kernels", 110, run_kernels, read_kernels),
    Step("whole models", 190, run_whole, read_whole),
)
