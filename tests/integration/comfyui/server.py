"""A real ComfyUI server on a free port, with a folder of its own for models, nodes and output."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from .installation import ROOT, comfyui_python

PACK_FOLDER = "odd name, sparse.vdit (1)"  # folders are called what users call them
WEB_FOLDER = "Sparse-vDiT"  # of odd names ComfyUI serves no files to browsers
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "benchmarks", "tests", "tools")


class PromptError(RuntimeError):
    """A workflow that ComfyUI refused or that failed; the message is ComfyUI's."""


class Server:
    """Starts on creation; `stop` ends it.

    Args:
        comfyui: installation.
        base: empty folder for everything the server writes or loads.
        arguments: more of ComfyUI's own.
        cached: whether outputs of nodes are kept for the next workflow, as ComfyUI does by default.
        folder: that the pack lies in.
        raylight: whether something that looks like raylight is installed too.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        arguments: tuple[str, ...] = (),
        cached: bool = False,
        folder: str = PACK_FOLDER,
        raylight: bool = True,
    ):
        self.base, self.log = base, base / "server.log"
        install_packs(base / "custom_nodes", folder)
        if raylight:
            install_raylight(base / "custom_nodes" / "raylight")
        for folder in ("models/diffusion_models", "input", "output", "temp", "user"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [
            *(comfyui_python(comfyui), "main.py", "--cpu", "--disable-api-nodes"),
            "--cache-classic" if cached else "--cache-none",
            *("--base-directory", str(base), "--database-url", "sqlite:///:memory:"),
            *("--listen", "127.0.0.1", "--port", str(self.port), *arguments),
        ]
        # freed memory goes back to the system at once, so that what the process holds is what it needs
        allocator = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **allocator}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self._wait()

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def get(self, path: str) -> object:
        """JSON of a GET request."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict | None = None) -> None:
        """POST request, without a body unless there is one to send as JSON."""
        data = b"" if body is None else json.dumps(body).encode()
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data), timeout=60).close()

    def run(self, prompt: dict, timeout: float = 600, while_running: Callable[[], None] = lambda: None) -> dict:
        """Queue a workflow in API form, wait for it, return its outputs by node.

        `while_running` is called again and again until the workflow is done.

        Raises:
            PromptError: refused, failed, or not done in time.
        """
        body = json.dumps({"prompt": prompt, "client_id": uuid.uuid4().hex}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/prompt", body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                number = json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptError(error.read().decode()) from None
        end = time.time() + timeout
        while time.time() < end:
            history = self.get(f"/history/{number}")
            if number in history:
                return _outputs(history[number])
            while_running()
            time.sleep(0.05)
        raise PromptError(f"not done after {timeout} s; log: {self.log_text()[-2000:]}")

    def log_text(self) -> str:
        """Everything the server has said."""
        return self.log.read_text(errors="replace")

    def resident_bytes(self) -> int | None:
        """Memory of the server's process, None where /proc does not tell."""
        return self._memory("VmRSS")

    def peak_bytes(self) -> int | None:
        """The most memory it had since `reset_peak`, None where /proc does not tell."""
        return self._memory("VmHWM")

    def reset_peak(self) -> None:
        """Forget the peak so far, where /proc can."""
        references = Path(f"/proc/{self.process.pid}/clear_refs")
        if references.exists():
            references.write_text("5")

    def _memory(self, field: str) -> int | None:
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.is_file():
            return None
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    def _wait(self) -> None:
        end = time.time() + 240
        while time.time() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting: {self.log_text()[-3000:]}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start: {self.log_text()[-3000:]}")


def install_packs(folder: Path, name: str = PACK_FOLDER) -> None:
    """Copy this pack, under a name, and the test pack with the small Wan's words."""
    shutil.copytree(ROOT, folder / name, ignore=_NOT_COPIED)
    tests = ROOT / "tests"
    shutil.copytree(tests / "integration" / "comfyui" / "test_pack", folder / "test_pack", ignore=_NOT_COPIED)
    shutil.copy(tests / "support" / "graph_recorder.py", folder / "test_pack")
    shutil.copytree(tests / "ptx", folder / "test_pack" / "ptx", ignore=_NOT_COPIED)
    (folder / "test_pack" / "small_wan").mkdir()
    for name in ("__init__.py", "model.py", "video.py"):
        shutil.copy(tests / "small_wan" / name, folder / "test_pack" / "small_wan" / name)


def install_raylight(folder: Path) -> None:
    """A pack without nodes that lies where raylight does; its stand-ins are in the test pack."""
    (folder / "src" / "raylight").mkdir(parents=True)
    (folder / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")


def _outputs(entry: dict) -> dict:
    status = entry.get("status", {})
    if status.get("status_str") != "success":
        raise PromptError(json.dumps(status.get("messages", status)))
    return entry["outputs"]
