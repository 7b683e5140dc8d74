"""All that this project wants to know of a GPU, in nine minutes: self-tests, tests on hardware, times of kernels beside
dense attention, and a forward of each model that fits the GPU's memory.

Each step is a process with its own time limit. The failure of one does not stop the others. What is known is written
after each step to runs/gpu/report.md and report.json; attach the latter to an issue of the project. Whole models need a
ComfyUI, which $COMFYUI_PATH names where it is not above this folder or in ~/comfy.

    python3 dev.py gpu                      # in an environment of its own
    python3 dev.py gpu --python PYTHON      # with the Python of a ComfyUI
    python3 -m benchmarks.report.gpu               # with the Python at hand
    python3 -m benchmarks.report.gpu --estimate    # how long it takes
    python3 -m benchmarks.report.gpu --device cpu  # tries the command on toys
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.report import gpu_report
from benchmarks.report.gpu_steps import FAILED, LATE, NO_GPU, PASSED, ROOT, SKIPPED, STEPS, Found, Step, Task, last_line

FOLDER = ROOT / "runs" / "gpu"
MINUTES = sum(step.seconds for step in STEPS) / 60
SHOWN_EVERY = 10  # seconds
OLD = ("report.*", "*.log", "machine.json", "self_test.json", "kernels-*", "end_to_end-*")


def run(command: list[str], log: Path, seconds: float, title: str) -> int | None:
    """Exit code of a command that writes to a log; None where it was stopped for its time."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    begin, shown = time.monotonic(), 0.0
    with open(log, "wb") as file:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=os.name != "nt",
        )  # fmt: skip
        try:
            while (passed := time.monotonic() - begin) <= seconds:
                with suppress(subprocess.TimeoutExpired):
                    return child.wait(timeout=0.5)
                if passed - shown >= SHOWN_EVERY:
                    shown = passed
                    print(f"{title} {passed:4.0f} of {seconds:.0f} s: {last_line(read(log))[:90]}", flush=True)
        finally:
            stop(child)
    return None


def stop(child: subprocess.Popen) -> None:
    """End a process, and on Linux those it started."""
    if child.poll() is not None:
        return
    if os.name == "nt":
        child.kill()
    else:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def read(log: Path) -> str:
    """A log, whatever is in it."""
    return log.read_text(encoding="utf-8", errors="replace")


def outcome(step: Step, task: Task, title: str) -> Found:
    """What came of a step; an error of it is one outcome."""
    log = task.folder / f"{step.name.replace(' ', '_')}.log"
    try:
        command = step.command(task)
        if isinstance(command, str):
            return Found(SKIPPED, command)
        code = run(command, log, task.seconds, title)
        found = step.read(task, read(log))
    except Exception as error:
        return Found(FAILED, f"{type(error).__name__}: {error}"[:300])
    if code is None and found.status != FAILED:
        return Found(LATE, f"stopped after {task.seconds:.0f} s; until then: {found.said}", found.rows)
    if code and found.status == PASSED:
        return Found(FAILED, f"exit code {code}: {last_line(read(log))}", found.rows)
    return found


def run_steps(steps: tuple[Step, ...], folder: Path, device: str, minutes: float) -> dict[str, tuple[Found, float]]:
    """Each step's outcome and seconds. The report is written after each."""
    end, results, models, no_gpu = time.monotonic() + 60 * minutes, {}, (), False
    for number, step in enumerate(steps, 1):
        begin, title = time.monotonic(), f"[{number}/{len(steps)}] {step.name}:"
        limit = end - begin - sum(later.seconds for later in steps[number:]) * min(1.0, minutes / MINUTES)
        print(f"{title} up to {limit:.0f} s", flush=True)
        task = Task(folder, device, limit, models)
        found = Found(SKIPPED, NO_GPU) if no_gpu else outcome(step, task, title)
        if step.name == "machine" and found.rows:
            models = tuple(found.rows[0]["fitting"])
            no_gpu = device != "cpu" and found.rows[0]["gpu"] is None
        results[step.name] = found, time.monotonic() - begin
        print(f"{title} {found.status}: {found.said}", flush=True)
        gpu_report.write(folder, results, device == "cpu")
    return results


def estimate(steps: tuple[Step, ...], minutes: float) -> str:
    """How long the steps take at most."""
    lines = [f"{step.name:14} {step.seconds * minutes / MINUTES:5.0f} s" for step in steps]
    total = sum(step.seconds for step in steps) * minutes / MINUTES / 60
    lines.append(f"{'all':14} {total:5.1f} min at most; a step that ends early leaves its time to the next")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimate", action="store_true", help="run nothing, say how long it takes")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all steps, default {MINUTES:g}")
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS], help="leave the others out")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: toys, to try the command")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the report")
    args = parser.parse_args()
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes:g} is not above 0")
    return args


def main() -> None:
    args = arguments()
    steps = tuple(step for step in STEPS if args.steps is None or step.name in (*args.steps, "machine"))
    if args.estimate:
        print(estimate(steps, args.minutes))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    for file in (file for pattern in OLD for file in args.folder.glob(pattern)):
        file.unlink()
    results = run_steps(steps, args.folder.resolve(), args.device, args.minutes)
    print("Written to", args.folder / "report.md", "and", args.folder / "report.json")
    sys.exit(any(found.status in (FAILED, LATE) for found, _ in results.values()))


if __name__ == "__main__":
    main()
