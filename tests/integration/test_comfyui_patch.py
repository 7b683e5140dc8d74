"""The patch node in a real ComfyUI: what it leaves alone, what it runs sparse, what it says."""

from __future__ import annotations

import pytest
import torch
from comfyui.plans import add_plan
from comfyui.prompts import base, ksampler, node, patch, patched
from comfyui.results import PLANS, counts, latents, relative_difference, report
from comfyui.server import PromptError, Server
from sparse_vdit.kernels.patterns import Dense, Diagonal
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import uniform_plan
from tolerances import SAMPLED_DENSE

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

STEPS, LAYERS = 4, 4


def test_all_dense_plan_changes_nothing(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "dense", Dense())
    before = len(server.log_text())
    result = latents(server, patched("dense"))
    assert relative_difference(result, plain) <= SAMPLED_DENSE
    assert "plan is dense here" in report(server, before)


def test_all_dense_plan_through_our_kernels_changes_nothing(server: Server, plain: torch.Tensor) -> None:
    """A named backend computes dense heads too, where auto leaves them to the model's own attention."""
    add_plan(server, "dense", Dense())
    before = len(server.log_text())
    result = latents(server, patched("dense", backend="torch", start_percent=0.0))
    assert counts(report(server, before))[1] == 0
    assert 0 < relative_difference(result, plain) <= SAMPLED_DENSE


def test_without_a_plan_the_model_is_bit_equal_and_says_what_to_do(server: Server, plain: torch.Tensor) -> None:
    before = len(server.log_text())
    assert torch.equal(latents(server, patched(None, calibrate=False)), plain)
    line = report(server, before)
    assert "no plan is connected" in line
    assert "connect a plan from Load Sparse Plan or Search Sparse Plan" in line


def test_bypassed_after_a_sparse_run_is_bit_equal(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    latents(server, patched("sparse"))
    assert torch.equal(latents(server, {**base(), "sampler": ksampler(("model", 0), STEPS)}), plain)


def test_sparse_calls_and_warm_up_are_counted(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    before = len(server.log_text())
    result = latents(server, patched("sparse", start_percent=0.3))
    line = report(server, before)
    sparse, dense = counts(line)
    # 4 steps of cond and uncond, batched or not; the first two steps lie above the sigma of 30 % of the schedule
    assert sparse == dense > 0
    assert (sparse + dense) in (STEPS * LAYERS, 2 * STEPS * LAYERS)
    assert f"dense start {dense}" in line
    assert "at density 0." in line
    assert "backend torch" in line
    assert 0 < relative_difference(result, plain) < 0.5


def test_nearly_dense_plan_is_nearly_the_plain_model(server: Server, plain: torch.Tensor) -> None:
    """+-1 of 5 frames: the sparse kernels run on every step with density .92, and little may change."""
    add_plan(server, "wide", Diagonal(1))
    before = len(server.log_text())
    result = latents(server, patched("wide", start_percent=0.0))
    assert counts(report(server, before))[1] == 0
    assert 0 < relative_difference(result, plain) < 0.2


def test_strict_names_the_reasons(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    with pytest.raises(PromptError, match=r"Nothing ran sparse.*strict") as error:
        latents(server, patched("sparse", start_percent=1.0, strict=True))
    assert "dense start" in str(error.value)
    with pytest.raises(PromptError, match="no plan is connected"):
        latents(server, patched(None, strict=True, calibrate=False))


def test_plan_of_another_model_runs_dense_and_says_why(server: Server, plain: torch.Tensor) -> None:
    plan = uniform_plan("wan", 30, 12, 128, (5, 8, 11), Diagonal(0))
    save_plan(plan, server.base / PLANS / "other.json", overwrite=True)
    before = len(server.log_text())
    assert torch.equal(latents(server, patched("other", preset="fast")), plain)
    line = report(server, before)
    assert "Not faster here: plan user/other is for a model with layers 30, this one has layers 4; preset fast" in line
    assert line.endswith("; preset fast ignored, a plan is connected. Try another plan, or disconnect it.")


def test_unknown_model_passes_dense_and_says_why(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    causal = base("causal.safetensors")
    truth = latents(server, {**causal, "sampler": ksampler(("model", 0), 2)})
    before = len(server.log_text())
    prompt = {**patched("sparse"), **causal, "sampler": ksampler(("patch", 0), 2)}
    assert torch.equal(latents(server, prompt), truth)
    assert "CausalWanModel is a variant of Wan" in report(server, before)


def test_chained_backend_is_the_dense_backend(server: Server, plain: torch.Tensor) -> None:
    """A node before ours that sets its own attention keeps it for every dense call."""
    add_plan(server, "dense", Dense())
    chained = {"chained": node("TestMarkedAttention", model=("model", 0))}
    truth = latents(server, {**base(), **chained, "sampler": ksampler(("chained", 0), STEPS)})
    assert not torch.equal(truth, plain)
    prompt = {**patched("dense"), **chained}
    prompt["patch"]["inputs"]["model"] = ["chained", 0]
    assert torch.equal(latents(server, prompt), truth)
    core = {"chained": node("ModelAttentionBackend", model=("model", 0), attention="pytorch attention")}
    before = len(server.log_text())
    result = latents(server, {**prompt, **core})
    assert relative_difference(result, plain) <= SAMPLED_DENSE
    assert counts(report(server, before))[1] > 0


def test_patched_twice_the_last_node_counts(server: Server, plain: torch.Tensor) -> None:
    add_plan(server, "sparse", Diagonal(0))
    add_plan(server, "dense", Dense())
    prompt = patched("dense")
    prompt["first_plan"] = node("SparseVDiTLoadPlan", plan_name="user/sparse")
    prompt["first"] = patch(("first_plan", 0))
    prompt["patch"]["inputs"]["model"] = ["first", 0]
    before = len(server.log_text())
    assert torch.equal(latents(server, prompt), plain)
    log = server.log_text()[before:]
    assert "patched before" in log
    assert log.count(" sparse / ") == 1


def test_two_stages_share_one_schedule(server: Server) -> None:
    """Warm-up is counted in noise: the second of two samplers has none left."""
    add_plan(server, "sparse", Diagonal(0))
    prompt = patched("sparse", start_percent=0.4)
    prompt.pop("sampler")
    for name, latent, start, end in (("high", "latent", 0, 2), ("sampler", "high", 2, 4)):
        prompt[name] = node(
            "KSamplerAdvanced",
            model=("patch", 0),
            positive=("positive", 0),
            negative=("negative", 0),
            latent_image=(latent, 0),
            add_noise="enable" if name == "high" else "disable",
            noise_seed=5,
            steps=STEPS,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            start_at_step=start,
            end_at_step=end,
            return_with_leftover_noise="enable" if name == "high" else "disable",
        )
    before = len(server.log_text())
    latents(server, prompt)
    lines = [line for line in server.log_text()[before:].splitlines() if " sparse / " in line]
    assert [counts(line) for line in lines] == [(0, 2 * LAYERS), (2 * LAYERS, 0)]


@pytest.mark.slow
def test_twenty_runs_are_equal_and_memory_is_flat(server: Server) -> None:
    add_plan(server, "sparse", Diagonal(0))
    prompt = patched("sparse")
    first, memory = latents(server, prompt), []
    for _ in range(19):
        assert torch.equal(latents(server, prompt), first)
        memory.append(server.resident_bytes())
    if memory[0] is None:
        pytest.skip("no /proc to read the server's memory from")
    assert max(memory[-10:]) <= 1.01 * min(memory[-10:]), memory
