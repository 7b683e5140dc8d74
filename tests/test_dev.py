"""The entry for developers, as far as it can be run without setting up an environment."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from load_pack import ROOT


def run(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "dev.py", *args], capture_output=True, text=True, timeout=60)


def test_an_unknown_command_is_named() -> None:
    found = run("dmeo")
    assert found.returncode == 2
    assert found.stderr.rstrip().endswith("'dmeo' is no command, expected one of demo, test, lint, gpu")


def test_without_a_command_the_usage_is_shown_alone() -> None:
    found = run()
    assert (found.returncode, found.stdout) == (2, "")
    assert "python3 dev.py demo" in found.stderr and "is no command" not in found.stderr


def test_slow_tests_run_when_all_are_asked_for_and_lint_checks_types_too() -> None:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    ((*_, mark, quick, given),) = dev.calls("test", ["-x"])
    assert (mark, quick, given) == ("-m", "not slow", "-x")
    ((*everything, given),) = dev.calls("test", ["--all", "-x"])
    assert "not slow" not in everything and "--all" not in everything and given == "-x"
    assert [call[1] for call in dev.calls("lint", [])] == ["ruff", "tools.check_types", "tools.check_words"]
    assert len(dev.calls("lint", ["--fix"])) == 1


def test_the_gpu_command_runs_with_a_given_python() -> None:
    found = run("gpu", "--estimate", "--python", sys.executable)
    assert found.returncode == 0, found.stderr
    assert "9.0 min at most" in found.stdout


def test_a_python_that_is_none_is_named() -> None:
    found = run("gpu", "--python", "no/such/python")
    assert found.returncode == 2
    assert found.stderr == "--python no/such/python is no program; name the Python of a ComfyUI\n"
