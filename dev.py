#!/usr/bin/env python3
"""Sets up a virtual environment in .venv and runs a command in it, on a machine with nothing but Python 3.11+ and pip.

    python3 dev.py demo [options]      the main job on a small model, without ComfyUI or GPU
    python3 dev.py test [pytest args]  the tests, side by side; -n 0 for one after the other, --all for slow ones
    python3 dev.py lint                ruff, the types of the pack's interfaces by mypy, spelling and words
    python3 dev.py gpu [options]       tests and times on a GPU, in nine minutes at most, and a report of them;
                                       --python PYTHON runs it with that of a ComfyUI, --estimate says how long it takes

torch is pinned to the tested version. On Linux the default wheel brings CUDA (gigabytes); for the CPU-only build set
TORCH_INDEX_URL to the CPU index that PyTorch's installation page names. This file stays out of the published pack.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = ("codespell", "mypy", "numpy", "pillow", "pytest", "pytest-xdist", "pyyaml", "ruff", "safetensors")
WORKERS = min(4, os.cpu_count() or 1)  # each may start a ComfyUI of its own, which takes some GB
COMMANDS = {
    "demo": ("-P", "-m", "benchmarks.report.demo"),
    "test": ("-m", "pytest", "-n", str(WORKERS), "--dist", "loadfile"),
    "lint": ("-m", "ruff", "check", "."),
    "gpu": ("-m", "benchmarks.report.gpu"),
}
MORE_LINT = (("-m", "tools.check_types"), ("-m", "tools.check_words"))  # after ruff
QUICK = ("-m", "not slow")  # tests, unless --all is asked for


def python() -> Path:
    """The environment's interpreter."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return ENVIRONMENT / folder / name


def set_up() -> None:
    """Make the environment when it is not there or the pinned versions have changed."""
    stamp = ENVIRONMENT / "constraints.sha256"
    wanted = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Setting up {ENVIRONMENT.name} (once; torch is a large download)", flush=True)
    venv.create(ENVIRONMENT, with_pip=True)
    pip = [python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", CONSTRAINTS]
    index = os.environ.get("TORCH_INDEX_URL")
    subprocess.run([*pip, *(("--index-url", index) if index else ()), "torch"], check=True)
    # Triton has wheels for Linux only; without it the kernel tests skip and say so
    triton = ("triton",) if sys.platform == "linux" and platform.machine() == "x86_64" else ()
    subprocess.run([*pip, *PACKAGES, *triton], check=True)
    stamp.write_text(wanted)


def main() -> int:
    if sys.version_info < (3, 11):
        print(f"Python 3.11 or newer is needed, this is {platform.python_version()}", file=sys.stderr)
        return 2
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        if len(sys.argv) > 1:
            print(f"{sys.argv[1]!r} is no command, expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if sys.argv[1] == "gpu" and "--python" in sys.argv:
        return with_python(sys.argv[2:])
    set_up()
    # exactly the pinned versions, whatever the caller's environment adds
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    if sys.argv[1] == "test" and WORKERS > 1:
        environment.setdefault("OMP_NUM_THREADS", "1")  # workers side by side, instead of torch's threads
    folder = None if sys.argv[1] == "demo" else ROOT  # the demo takes paths, which are the caller's
    if folder is None:
        environment["PYTHONPATH"] = str(ROOT)
    for arguments in calls(sys.argv[1], sys.argv[2:]):
        status = subprocess.run([python(), *arguments], cwd=folder, env=environment).returncode
        if status:
            return status
    return 0


def calls(command: str, arguments: list[str]) -> list[tuple[str, ...]]:
    """Arguments of Python for a command, one call after the other."""
    if command == "test":
        given = [argument for argument in arguments if argument != "--all"]
        return [(*COMMANDS["test"], *(QUICK if len(given) == len(arguments) else ()), *given)]
    return [(*COMMANDS[command], *arguments), *(MORE_LINT if command == "lint" and not arguments else [])]


def with_python(arguments: list[str]) -> int:
    """Run the command `gpu` with the interpreter that --python names, and all that is installed there."""
    place = arguments.index("--python")
    chosen, rest = arguments[place + 1 : place + 2], arguments[:place] + arguments[place + 2 :]
    if not chosen or shutil.which(chosen[0]) is None:
        print(f"--python {' '.join(chosen)} is no program; name the Python of a ComfyUI", file=sys.stderr)
        return 2
    return subprocess.run([chosen[0], *COMMANDS["gpu"], *rest], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
