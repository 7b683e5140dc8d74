"""From a profile to a plan to a sparse video, by the nodes in a real ComfyUI."""

from __future__ import annotations

import pytest
import torch
from comfyui.prompts import base, ksampler, node, patch, patched, profiled, save_latent
from comfyui.results import PLANS, counts, latents, new_log, report
from comfyui.server import PromptError, Server
from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.plan.versions import pack_version
from sparse_vdit.plans.profile.profile_files import load_profile

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]


def search(rule: str = "budget: density", **options: float) -> dict:
    """The search node; options of the rule carry its name, as the frontend sends them."""
    values = {f"rule.{name}": value for name, value in (options or {"density": 0.8}).items()}
    return node("SparseVDiTSearchPlan", profile=("profile", 0 + 1), rule=rule, **values)


def test_profile_search_save_load_patch(server: Server) -> None:
    """The whole way, in two workflows as a user would run them."""
    before = len(server.log_text())
    outputs = server.run(
        {
            **base(),
            **profiled(bands=2),
            "search": search(),
            "keep": node(
                "SparseVDiTSavePlan", plan=("search", 0), profile=("profile", 1), file_name="mine", overwrite=False
            ),
            "show": node("SparseVDiTPreviewPlan", plan=("keep", 0)),
        }
    )
    assert "measured 16 calls" in report(server, before)
    assert outputs["keep"]["text"] == ["saved mine.json, mine.safetensors"]
    assert "4 layers of 3 heads x 128" in outputs["show"]["text"][0]
    assert outputs["show"]["images"]
    plan = load_plan(server.base / PLANS / "mine.json")
    profile = load_profile(server.base / PLANS / "mine.safetensors")
    assert len(plan.bands) == 2
    assert plan.grid == profile.header.grid == (5, 8, 11)
    assert profile.header.prompts == ("scene 3",)
    assert profile.header.projected
    assert plan.density() <= 0.8

    assert (
        "user/mine"
        in server.get("/object_info/SparseVDiTLoadPlan")["SparseVDiTLoadPlan"]["input"]["required"]["plan_name"][1][
            "options"
        ]
    )
    before = len(server.log_text())
    load = {"plan": node("SparseVDiTLoadPlan", plan_name="user/mine")}
    latents(server, {**base(), **load, "patch": patch(("plan", 0)), "sampler": ksampler(("patch", 0))})
    assert counts(report(server, before))[0] > 0

    again = {**load, "search": node("SparseVDiTSearchPlan", profile=("plan", 1), rule="paper",
                                    **{"rule.lam": 0.5, "rule.epsilon": 1.0})}  # fmt: skip
    again["keep"] = node("SparseVDiTSavePlan", plan=("search", 0), file_name="mine.json", overwrite=False)
    assert server.run(again)["keep"]["text"] == ["saved mine_2.json, as another plan has the name mine"]
    assert load_plan(server.base / PLANS / "mine.json") == plan
    again["plan"] = node("SparseVDiTLoadPlan", plan_name="user/mine_2")
    before = len(server.log_text())
    assert "keep" not in server.run(again)  # no profile lies beside it: what wants one is blocked, with a message
    assert "has no profile" not in new_log(server, before)  # nobody asked for it


def test_the_warm_up_is_not_measured(server: Server) -> None:
    before = len(server.log_text())
    keep = node("SparseVDiTSavePlan", plan=("search", 0), profile=("profile", 1), file_name="late", overwrite=True)
    server.run({**base(), **profiled(start_percent=0.2), "search": search(), "keep": keep})
    line = report(server, before)
    assert "measured 12 calls" in line and "dense start 4" in line
    ((high, _),) = load_profile(server.base / PLANS / "late.safetensors").header.bands
    assert high == pytest.approx(8 * 0.8 / (1 + 7 * 0.8), rel=1e-4)  # start_percent, above the second of four steps
    before = len(server.log_text())
    workflow = patched("late", steps=5, start_percent=0.2)
    server.run({**workflow, "save": save_latent(("sampler", 0), "latents/test")})
    sparse, dense = counts(report(server, before))
    assert sparse + dense == 5 * dense  # the first of five steps is the dense start; the plan covers all others
    with pytest.raises(PromptError, match="0 of 1 sampled steps come after start_percent"):
        server.run({**base(), **profiled(steps=1, start_percent=0.2), "search": search(), "keep": keep})


RULES = {
    "preset": ({"preset": "fast"}, "rule: budget, preset fast, error 0.1"),
    "budget: speed-up": ({"speedup": 1.2}, "rule: budget, speedup 1.2"),
    "budget: density": ({"density": 0.9}, "rule: budget, density 0.9"),
    "budget: error": ({"error": 0.1}, "rule: budget, error 0.1"),
    "paper": ({"lam": 0.5, "epsilon": 1.0}, "rule: paper, lambda 0.5, epsilon 1.0"),
}


def test_all_rules_on_one_profile(server: Server) -> None:
    prompt = {**base(), **profiled(steps=2)}
    for rule, (options, _) in RULES.items():
        prompt[rule] = search(rule, **options)
        prompt[f"show {rule}"] = node("SparseVDiTPreviewPlan", plan=(rule, 0))
    outputs = server.run(prompt)
    for rule, (_, told) in RULES.items():
        text = outputs[f"show {rule}"]["text"][0]
        for line in ("mean density", "expected error of attention", "expected: a whole step", told):
            assert line in text, rule
        assert "times as fast (by a FLOP model)" in text  # the server computes on a CPU
        assert "measured on: scene 3" in text


def test_targets_out_of_reach_name_what_is_possible(server: Server) -> None:
    show = node("SparseVDiTPreviewPlan", plan=("search", 0))
    wanted = search("budget: speed-up", speedup=20.0)
    with pytest.raises(PromptError, match=r"speed-up 20.0 cannot be reached on 5x8x11 tokens, the highest is"):
        server.run({**base(), **profiled(steps=1), "search": wanted, "show": show})


@pytest.mark.parametrize("most_skipped, refused", [(0.06, False), (0.07, True)])
def test_most_skipped_has_a_limit(server: Server, most_skipped: float, refused: bool) -> None:
    wanted = search("budget: density", density=0.9)
    wanted["inputs"]["most_skipped"] = most_skipped
    prompt = {**base(), **profiled(steps=1), "search": wanted}
    prompt["show"] = node("SparseVDiTPreviewPlan", plan=("search", 0))
    if refused:
        with pytest.raises(PromptError, match="bigger than max"):
            server.run(prompt)
    else:
        assert server.run(prompt)["show"]["text"]


def test_a_plan_that_skips_too_many_heads_is_warned_of(server: Server) -> None:
    before = len(server.log_text())
    show = node("SparseVDiTPreviewPlan", plan=("search", 0))
    rule = search("paper", lam=10.0, epsilon=100.0)
    outputs = server.run({**base(), **profiled(steps=1), "search": rule, "show": show})
    for text in (new_log(server, before), outputs["show"]["text"][0]):
        assert "of the heads, and beyond 6%" in text


def test_profiling_leaves_the_video_alone_and_previous_profiles_add_up(server: Server) -> None:
    plain = {
        **base(),
        **profiled(),
        "sampled": node(
            "SamplerCustomAdvanced",
            noise=("noise", 0),
            guider=("guider", 0),
            sampler=("sampler", 0),
            sigmas=("sigmas", 0),
            latent_image=("latent", 0),
        ),
    }
    plain.pop("profile")
    truth = latents(server, plain, "sampled")
    assert (latents(server, {**base(), **profiled()}, "profile") == truth).all()
    again = profiled()["profile"]
    again["inputs"]["previous_profile"] = ["profile", 1]
    keep = {
        "search": node("SparseVDiTSearchPlan", profile=("again", 1), rule="budget: density", **{"rule.density": 0.9}),
        "keep": node("SparseVDiTSavePlan", plan=("search", 0), profile=("again", 1), file_name="both", overwrite=True),
    }
    server.run({**base(), **profiled(), "again": again, **keep})
    assert load_profile(server.base / PLANS / "both.safetensors").samples.tolist() == [[8, 8, 8, 8]]


def test_sequential_flow_runs_sparse_while_measuring(server: Server) -> None:
    """Algorithm 1: what is measured is what flowed on, so the video differs, and each call votes for what it ran."""
    flow = {"flow": "sequential", "flow.lam": 0.5, "flow.epsilon": 1.0}
    keep = node("SparseVDiTSavePlan", plan=("search", 0), profile=("profile", 1), file_name="flowed", overwrite=True)
    rule = search("paper", lam=0.5, epsilon=1.0)
    flowed = latents(server, {**base(), **profiled(flow, steps=2), "search": rule, "keep": keep}, "profile")
    assert torch.isfinite(flowed).all()
    assert not torch.equal(flowed, latents(server, {**base(), **profiled(steps=2)}, "profile"))
    profile = load_profile(server.base / PLANS / "flowed.safetensors")
    assert profile.header.flow == "sequential"
    assert profile.votes.sum(-1).tolist() == [[[2.0] * 3] * 4]  # two steps: one vote for each of 4 layers x 3 heads
    plan = load_plan(server.base / PLANS / "flowed.json")
    chosen = [[profile.header.candidates[head] for head in layer] for layer in profile.votes[0].argmax(-1).tolist()]
    assert [[plan.pattern(0, layer, head) for head in range(3)] for layer in range(4)] == chosen
    assert plan.provenance.versions["comfyui"]
    assert plan.provenance.versions["sparse-vdit"] == pack_version()


def test_a_previous_profile_of_another_size_stops_at_the_first_step(server: Server) -> None:
    first, again = profiled(steps=1), profiled(steps=400)
    first["first"] = first.pop("profile")
    again["profile"]["inputs"]["previous_profile"] = ["first", 1]
    again["profile"]["inputs"]["latent_image"] = ["wide", 0]
    wide = node("EmptyHunyuanLatentVideo", width=192, height=128, length=17, batch_size=1)
    sigmas = node("BasicScheduler", model=("model", 0), scheduler="simple", steps=1, denoise=1.0)
    first["first"]["inputs"]["sigmas"] = ["few", 0]
    with pytest.raises(PromptError, match=r"profiles cannot be merged, one is of a video of .* tokens"):
        latents(server, {**base(), **first, **again, "wide": wide, "few": sigmas}, "profile")


def test_plan_and_profile_get_another_name_together(server: Server) -> None:
    taken = server.base / PLANS / "taken.safetensors"
    taken.write_bytes(b"mine")
    keep = node("SparseVDiTSavePlan", plan=("search", 0), profile=("profile", 1), file_name="taken", overwrite=False)
    outputs = server.run({**base(), **profiled(steps=1), "search": search(), "keep": keep})
    assert outputs["keep"]["text"][0].startswith("saved taken_2.json, taken_2.safetensors")
    assert taken.read_bytes() == b"mine"
    assert not taken.with_suffix(".json").exists()


def test_unknown_model_cannot_be_profiled_and_says_so(server: Server) -> None:
    with pytest.raises(PromptError, match="heads cannot be measured: CausalWanModel"):
        latents(server, {**base("causal.safetensors"), **profiled(steps=1)}, "profile")
