"""Peak memory of a whole run in a real ComfyUI, unpatched and with a plan, where attention has thousands of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from comfyui.family_cases import SPARSE, Case
from comfyui.fixtures import with_models, write_families
from comfyui.installation import comfyui_path
from comfyui.recording import record
from comfyui.results import PLANS, counts, latents, report
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense, Diagonal, Pattern
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import uniform_plan

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

SMALL, LARGE = (3, 14, 18), (9, 60, 52)  # latents, of which HunyuanVideo takes whole patches alone
GRID = (9, 30, 26)
VARIANTS: dict[str, Pattern | None] = {"unpatched": None, "all-dense plan": Dense(), "sparse plan": Diagonal(0)}
ATTENTION = {"sub-quadratic, the default on a CPU": (), "PyTorch's": ("--use-pytorch-cross-attention",)}


@pytest.fixture(scope="module", params=ATTENTION)
def attending(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    """The name of ComfyUI's own attention, and a server that uses it."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("NO COMFYUI FOUND: set COMFYUI_PATH to one; memory of whole runs was not measured")
    base = with_models(tmp_path_factory.mktemp("memory"))
    running = Server(comfyui, base, ATTENTION[request.param])
    write_families(base, "wan_t2v", "hunyuan")
    yield request.param, running
    running.stop()


@pytest.mark.parametrize("name", ["wan2.1 t2v", "hunyuan video"])
def test_a_plan_costs_no_more_memory_than_copies_of_q_k_v(attending: tuple[str, Server], name: str) -> None:
    """An all-dense plan leaves attention to the model. A sparse one has tokens in another order on a CPU, which takes
    copies of q, k and v and of what comes out."""
    attention, server = attending
    if server.peak_bytes() is None:
        pytest.skip("peak memory of a process can be read on Linux alone")
    case = next(case for case in SPARSE if case.name == name)
    peaks, calls = {}, {}
    for variant, pattern in VARIANTS.items():
        run(server, case, pattern, SMALL)  # what the first run leaves in memory is there
        server.reset_peak()
        before = server.resident_bytes()
        calls[variant] = run(server, case, pattern, LARGE)
        peaks[variant] = server.peak_bytes() - before
    q_k_v = 3 * math.prod(GRID) * case.heads * case.head_dim * 4
    for variant, peak in peaks.items():
        record(
            "memory", attention=attention, model=name, variant=variant, tokens=math.prod(GRID), peak=peak, q_k_v=q_k_v
        )
    assert calls["all-dense plan"][0] == 0
    assert calls["sparse plan"] == (case.layers, 0)
    assert peaks["all-dense plan"] <= peaks["unpatched"] + q_k_v
    assert peaks["sparse plan"] <= peaks["unpatched"] + 3 * q_k_v


def run(server: Server, case: Case, pattern: Pattern | None, size: tuple[int, int, int]) -> tuple[int, int]:
    """One step on latents of this size with one pattern for all heads; (sparse, dense) calls."""
    sized = replace(case, latents=([1, 16, *size],))
    prompt = sized.sampled({}, "model")
    if pattern is not None:
        plan = uniform_plan(case.family, case.layers, case.heads, case.head_dim, GRID, pattern)
        save_plan(plan, server.base / PLANS / "plan.json", overwrite=True)
        prompt = sized.patched("plan", backend="auto")
    prompt["ksampler"]["inputs"].update(steps=1, cfg=1.0)
    before = len(server.log_text())
    latents(server, prompt)
    return (0, 0) if pattern is None else counts(report(server, before))
