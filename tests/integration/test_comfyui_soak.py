"""Two hundred workflows in one server: two models in turn, some interrupted, some that fail. Nothing grows, and the
last latents are the first ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comfyui.family_cases import SPARSE
from comfyui.plans import add_plan, forget_plans
from comfyui.prompts import node, patch, patched, profiled, save_latent
from comfyui.results import PLANS, latents, report
from comfyui.server import PromptError, Server
from sparse_vdit.kernels.patterns import Diagonal
from sparse_vdit.plans.plan.files import save_plan

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]
pytest_plugins = ["comfyui.fixtures"]

PROMPTS, SETTLED = 200, 60
HUNYUAN = next(case for case in SPARSE if case.name == "hunyuan video")
MAX_GROWTH = 0.03  # of the process's memory after the first SETTLED workflows
STEPS = 3


def by_plan(server: Server, **options: object) -> dict:
    """The small Wan by a plan of the user's."""
    add_plan(server, "soak", Diagonal(0))
    return patched("soak", STEPS, start_percent=0.0, **options)


def with_trouble(server: Server, trouble: str) -> dict:
    """The same, with a kernel that meets trouble in its fourth call."""
    prompt = by_plan(server)
    prompt["test"] = node("TestTroubleInKernel", model=("patch", 0), trouble=trouble, first=3, last=3)
    prompt["sampler"]["inputs"]["model"] = ["test", 0]
    return prompt


def of_another_family() -> dict:
    """The small HunyuanVideo by a plan."""
    place = {"plan": node("SparseVDiTLoadPlan", plan_name="user/hunyuan"), "patch": patch(("plan", 0), backend="torch")}
    return HUNYUAN.sampled(place, "patch")


def workflow(server: Server, number: int) -> tuple[dict, str]:
    """A workflow and the node whose latents it saves."""
    kind = number % 10
    if kind in (1, 5):
        return of_another_family(), "sampler"
    if kind == 2:
        return patched(None, STEPS), "sampler"  # measures heads, or runs the plan that was found
    if kind == 3:
        return {**by_plan(server), **profiled(steps=2)}, "profile"
    if kind == 6:
        return with_trouble(server, "not finite"), "sampler"
    if kind == 7:
        return with_trouble(server, "out of memory"), "sampler"
    if kind == 8:
        return by_plan(server, strict=True, end_percent=0.0, only_if_faster=True), "sampler"  # nothing sparse: fails
    return by_plan(server), "sampler"


def threads(server: Server) -> int:
    """Of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Threads")).split()[1])


def interrupted(server: Server, prompt: dict) -> None:
    """Run a workflow of many steps and stop it while it samples."""
    before = len(server.log_text())
    prompt["sampler"]["inputs"]["steps"] = 200

    def interrupt() -> None:
        if "/200" in server.log_text()[before:]:
            server.post("/interrupt")

    with pytest.raises(PromptError, match="execution_interrupted"):
        server.run({**prompt, "save": save_latent(("sampler", 0), "latents/test")}, while_running=interrupt)


def test_two_hundred_workflows_leave_nothing_behind(models: Server) -> None:
    if not Path(f"/proc/{models.process.pid}/status").is_file():
        pytest.skip("memory of a process is not known here")
    forget_plans(models)
    save_plan(HUNYUAN.plan(), models.base / PLANS / "hunyuan.json")
    truth, memory, failed = {}, [], 0
    for number in range(PROMPTS):
        prompt, name = workflow(models, number)
        if number % 10 == 4:
            interrupted(models, prompt)
        else:
            try:
                found = latents(models, prompt, name)
                assert torch.isfinite(found).all(), number
                kind = number % 10
                if kind != 2 or number > 30:  # the plan that is found changes twice at most
                    assert torch.equal(truth.setdefault(kind, found), found), report(models, 0)
            except PromptError as error:
                assert "Nothing ran sparse" in str(error)
                failed += 1
        memory.append((models.resident_bytes(), threads(models)))
        if number % 20 == 19:
            print(f"{number + 1} workflows: {memory[-1][0] >> 20} MB, {memory[-1][1]} threads")
    assert failed == PROMPTS // 10
    settled, last = (max(memory[end - 10 : end]) for end in (SETTLED, PROMPTS))
    assert last[0] <= (1 + MAX_GROWTH) * settled[0], memory[::10]
    assert memory[-1][1] <= memory[SETTLED][1], memory[::10]
