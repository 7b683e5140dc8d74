"""Runs a scenario in a real Chromium at a running server, through node and playwright-core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .server import Server

PAGE = Path(__file__).resolve().parent / "browser" / "page.js"


def browser() -> dict[str, str] | None:
    """Where Chromium ($CHROMIUM, or one on the path), node and playwright-core ($PLAYWRIGHT_CORE, or where node finds
    it) are; None where one is missing."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    node = shutil.which("node")
    playwright = os.environ.get("PLAYWRIGHT_CORE") or (node and resolved(node))
    if chromium is None or not node or not playwright or not Path(playwright).is_dir():
        return None
    return {"chromium": chromium, "playwright": playwright, "node": node}


def resolved(node: str) -> str:
    """Folder of playwright-core beside the tests, above them, or among npm's global packages; empty where it is not."""
    npm = shutil.which("npm")
    asked = npm and subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=60).stdout.strip()
    script = 'console.log(path.dirname(require.resolve("playwright-core/package.json")))'
    paths = os.pathsep.join(filter(None, (os.environ.get("NODE_PATH"), asked)))
    done = subprocess.run(
        [node, "-e", script], cwd=PAGE.parent, capture_output=True, text=True, timeout=60,
        env={**os.environ, "NODE_PATH": paths},
    )  # fmt: skip
    return done.stdout.strip()


def browse(server: Server, scenario: str, **options: object) -> dict:
    """Result of a scenario, a file of `browser`; screenshots go to $SCREENSHOTS where that is set. Skips without a
    browser."""
    found = browser()
    if found is None:
        pytest.skip("NO BROWSER FOUND: it takes node, Chromium and playwright-core (npm install -g playwright-core, or "
                    "PLAYWRIGHT_CORE names its folder); nothing of the plan viewer was tested")  # fmt: skip
    pictures = os.environ.get("SCREENSHOTS")
    if pictures:
        folder = Path(pictures) / f"{scenario}_{'vue' if options.get('vue') else 'canvas'}"
        folder.mkdir(parents=True, exist_ok=True)
        options["pictures"] = str(folder.resolve())
    given = {"url": f"http://127.0.0.1:{server.port}/", **found, **options}
    command = [found["node"], str(PAGE), f"{scenario}.js", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
