"""The patch node without a plan in a real ComfyUI: the first generation finds one, the next ones run it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from comfyui.family_cases import SPARSE, Case
from comfyui.neighbours import WINDOWS, lora
from comfyui.plans import LAYERS, forget_plans
from comfyui.prompts import node, patch, patched, save_latent, stage
from comfyui.results import PLANS, counts, latents, new_log, relative_difference, report
from comfyui.server import PromptError, Server
from safetensors.torch import load_file, save_file
from sparse_vdit.nodes.host.core import fallback
from sparse_vdit.nodes.host.library.found_plans import ONCE_MORE
from sparse_vdit.nodes.host.policies.calibrate import KEPT
from sparse_vdit.nodes.host.policies.measure import NO_FULL_TILE
from sparse_vdit.plans.plan.files import load_plan
from sparse_vdit.plans.profile.profile_files import load_header, load_profile
from tolerances import SAMPLED, SAMPLED_DENSE

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

STEPS, WARM_UP = 9, 2  # two of nine steps lie above the noise level of 20 % of the schedule
CALIBRATED = f"{PLANS}/calibrated"
QUANTIZED = node("TestQuantizedLoader", unet_name="small_wan.safetensors")


@pytest.fixture
def fresh(server: Server) -> Server:
    """The server as if no model had ever been calibrated, nor a plan of it been saved."""
    forget_plans(server)
    return server


def unplanned(steps: int = STEPS, scene: int = 3, **options: object) -> dict:
    """The patch node without a plan, on one prompt in one forward per step."""
    prompt = patched(None, steps, **options)
    prompt["positive"]["inputs"]["seed"] = scene
    prompt["sampler"]["inputs"]["cfg"] = 1.0
    return prompt


def generate(server: Server, prompt: dict | None = None) -> tuple[torch.Tensor, str]:
    """Latents of a generation, and its report."""
    before = len(server.log_text())
    result = latents(server, prompt or unplanned())
    assert torch.isfinite(result).all()
    return result, report(server, before)


def kept(server: Server) -> tuple[Path, Path]:
    """The one profile that is kept and the one plan beside it."""
    folder = server.base / CALIBRATED
    (profile,), (plan,) = folder.glob("*.safetensors"), folder.glob("*.json")
    return profile, plan


def test_the_first_generation_finds_a_plan_and_the_second_runs_it(fresh: Server) -> None:
    """The warm-up is measured and dense, later noise levels on the way; the plan of both runs from the second on, as by
    direct calls."""
    first, line = generate(fresh)
    print("\nfirst generation: ", line)
    assert counts(line) == ((STEPS - WARM_UP) * LAYERS, WARM_UP * LAYERS)
    assert f"{fallback.WARM_UP} {WARM_UP * LAYERS}" in line
    profile, plan = kept(fresh)
    samples = load_profile(profile).samples
    assert samples[0].tolist() == [1] * LAYERS and samples.shape[0] > 2 and samples.unique().tolist() in ([1], [0, 1])
    kept_as = f"for the next run kept as user/calibrated/{plan.stem}{ONCE_MORE}"
    assert f"found in this run; {kept_as}; measured {samples.sum()} calls in " in line
    assert len(load_plan(plan).bands) == (samples[:, 0] > 0).sum() > 2
    content = profile.read_bytes(), plan.read_bytes()

    second, line = generate(fresh)
    print("second generation:", line)
    assert counts(line) == ((STEPS - WARM_UP) * LAYERS, WARM_UP * LAYERS)
    assert f"plan user/calibrated/{plan.stem} (measured while sampling), 5x8x11 tokens" in line
    assert f"calibrated plan of {load_plan(plan).provenance.date}" in line
    assert " calls in " not in line
    assert torch.equal(generate(fresh)[0], second)
    assert (profile.read_bytes(), plan.read_bytes()) == content

    named = {"plan": node("SparseVDiTLoadPlan", plan_name=f"user/calibrated/{plan.stem}")}
    loaded, line = generate(fresh, {**unplanned(), **named, "patch": patch(("plan", 0))})
    assert torch.equal(loaded, second)
    direct = {**unplanned(), **named}
    direct["patch"] = node("TestDirectPlan", model=("model", 0), plan=("plan", 0), start_percent=0.2)
    assert relative_difference(second, latents(fresh, direct)) <= SAMPLED_DENSE
    plain = unplanned()
    plain["sampler"]["inputs"]["model"] = ["model", 0]
    for sparse in (first, second):
        assert relative_difference(sparse, latents(fresh, plain)) > 100 * SAMPLED_DENSE


def test_the_same_seed_gives_the_same_video_from_the_second_generation_on(fresh: Server) -> None:
    """And the report of the first one says that it is not yet so."""
    videos, lines = zip(*(generate(fresh) for _ in range(3)), strict=True)
    assert torch.equal(videos[1], videos[2]) and not torch.equal(videos[0], videos[1])
    assert [f"{KEPT}{ONCE_MORE}. " in line for line in lines] == [True, False, False]
    assert ["same seed" in line for line in lines] == [True, False, False]
    assert "searched the plan 4 times in " in lines[0]


def test_the_profile_lies_beside_every_presets_plan(fresh: Server) -> None:
    """Another preset needs no new measuring, and Search Sparse Plan gets the measures of both."""
    generate(fresh)
    _, line = generate(fresh, unplanned(preset="fast"))
    assert "for the next run kept as" in line and " calls in " not in line
    assert len(list((fresh.base / CALIBRATED).glob("*.json"))) == 2
    for plan in (fresh.base / CALIBRATED).glob("*.json"):
        search = node("SparseVDiTSearchPlan", profile=("plan", 1), rule="budget: error", **{"rule.error": 0.05})
        load = node("SparseVDiTLoadPlan", plan_name=f"user/calibrated/{plan.stem}")
        show = node("SparseVDiTPreviewPlan", plan=("search", 0))
        assert fresh.run({"plan": load, "search": search, "show": show})["show"]["images"], plan


def test_other_prompts_change_no_plan(fresh: Server) -> None:
    """A seed gives the same video again, whatever was generated in between."""
    for _ in range(2):  # the second adds what a busy machine has left out
        generate(fresh)
    profile, plan = kept(fresh)
    content = profile.read_bytes(), plan.read_bytes()
    found = []
    for scene in (3, 4, 5, 3):
        result, line = generate(fresh, unplanned(scene=scene))
        found.append(result)
        assert " calls in " not in line and ONCE_MORE not in line
        assert counts(line) == ((STEPS - WARM_UP) * LAYERS, WARM_UP * LAYERS)
    assert torch.equal(found[0], found[3]) and not torch.equal(found[0], found[1])
    assert (profile.read_bytes(), plan.read_bytes()) == content


def test_few_steps_are_sparse_from_the_first_on_once_there_is_a_plan(fresh: Server) -> None:
    """Where the user wants it; else start_percent means what it shows."""
    skipped = "dense start skipped: 1 step."
    for sparse in (3, 4, 4):
        _, line = generate(fresh, unplanned(steps=4, few_steps="auto"))
        assert counts(line) == (sparse * LAYERS, (4 - sparse) * LAYERS) and (skipped in line) == (sparse == 4)
    assert f"{fallback.WARM_UP} {WARM_UP * LAYERS}" in generate(fresh)[1]
    _, line = generate(fresh, unplanned(steps=4, start_percent=0.3, few_steps="auto"))
    assert counts(line) == (4 * LAYERS, 0) and "dense start skipped: 2 steps." in line
    for options, dense in (({}, 1), ({"few_steps": "keep the dense start", "start_percent": 0.3}, 2)):
        _, line = generate(fresh, unplanned(steps=4, **options))
        assert counts(line) == ((4 - dense) * LAYERS, dense * LAYERS)
        assert f"{fallback.WARM_UP} {dense * LAYERS}" in line and "skipped" not in line


def test_of_a_video_of_less_than_a_tile_nothing_is_measured(fresh: Server) -> None:
    prompt = unplanned(steps=4)
    prompt["latent"]["inputs"]["length"] = 1
    _, line = generate(fresh, prompt)
    assert counts(line)[0] == 0 and "calibration failed" not in line
    assert f"left out: {NO_FULL_TILE}" in line and "no plan was found" in line
    assert not [*(fresh.base / PLANS).rglob("*")]


def staged(server: Server, dtype: str) -> dict:
    """Two models, one schedule of four steps in two samplers, as Wan 2.2 with a LoRA of few steps."""
    folder = server.base / "models/diffusion_models"
    weights = load_file(folder / "small_wan.safetensors")
    save_file({name: value * 1.03 for name, value in weights.items()}, folder / "low_noise.safetensors")
    prompt = unplanned(strict=True, few_steps="auto")
    prompt["low"] = node("UNETLoader", unet_name="low_noise.safetensors", weight_dtype=dtype)
    prompt["model"]["inputs"]["weight_dtype"] = dtype
    prompt["low_patch"] = patch(None, ("low", 0), strict=True, few_steps="auto")
    for name, model, latent, start in (("high", "patch", "latent", 0), ("sampler", "low_patch", "high", 2)):
        prompt[name] = stage(model, latent, start)
    return prompt


@pytest.mark.parametrize("dtype", ["default", "fp8_e4m3fn"])  # in 8 bits noise levels alone tell them apart
def test_two_stages_of_two_models_have_a_plan_each(fresh: Server, dtype: str) -> None:
    """The second stage meets no dense step: it measures in its first one, once."""
    prompt, found = staged(fresh, dtype), []
    for _ in range(2):
        before = len(fresh.log_text())
        latents(fresh, prompt)
        lines = [line for line in new_log(fresh, before).splitlines() if " sparse / " in line]
        found.append([counts(line) for line in lines])
        said = f"{fallback.WARM_UP} {LAYERS}", f"{fallback.MEASURED} {LAYERS}"
        assert [text in line for text, line in zip(said, lines, strict=True)] == [len(found) == 1] * 2
    assert found == [[(LAYERS, LAYERS)] * 2, [(2 * LAYERS, 0)] * 2]
    profiles = list((fresh.base / CALIBRATED).glob("*.safetensors"))
    levels = sorted(load_header(profile).parameters["sigma_high"] for profile in profiles)
    assert len(levels) == 2 and levels[0] < levels[1] == 1.0


@pytest.mark.parametrize("broken", ["plan", "profile"])
def test_a_stored_file_that_is_broken_is_set_aside(fresh: Server, broken: str) -> None:
    first, _ = generate(fresh)
    profile, plan = kept(fresh)
    second = first if broken == "profile" else generate(fresh)[0]
    path = plan if broken == "plan" else profile
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    content = path.read_bytes()
    again, line = generate(fresh)
    assert f"{path.name} cannot be used and was renamed to {path.name}.aside: " in line
    assert path.with_name(f"{path.name}.aside").read_bytes() == content
    assert torch.equal(again, second)  # searched again from the profile, or measured again as at first
    assert kept(fresh) == (profile, plan)


def placed(before: dict | None = None, after: dict | None = None, **options: object) -> dict:
    """The workflow with nodes before and after the patch node."""
    prompt = unplanned(**options)
    if before is not None:
        prompt["before"] = {**before, "inputs": {**before["inputs"], "model": ["model", 0]}}
        prompt["patch"]["inputs"]["model"] = ["before", 0]
    if after is not None:
        prompt["after"] = {**after, "inputs": {**after["inputs"], "model": ["patch", 0]}}
        prompt["sampler"]["inputs"]["model"] = ["after", 0]
    return prompt


def test_context_windows_are_measured_and_find_their_plan_again(fresh: Server) -> None:
    """Two windows of three frames, or more, in each step; of so few tokens a layer may need them all."""
    _, line = generate(fresh, placed(WINDOWS))
    sparse, dense = counts(line)
    assert sparse > 0 and f"dense start {(sparse + dense) * WARM_UP // STEPS}" in line
    assert load_header(kept(fresh)[0]).grid == (3, 8, 11)
    generate(fresh, placed(WINDOWS))  # adds what a busy machine has left out
    third, line = generate(fresh, placed(WINDOWS))
    assert "calibrated plan of" in line and " calls in " not in line
    assert torch.equal(generate(fresh, placed(WINDOWS))[0], third)


COPIES: dict[str, Callable[[dict], None]] = {
    "LoRA": lambda prompt: prompt.update(placed(lora("strong"))),
    "LoRA after": lambda prompt: prompt.update(placed(None, lora("strong"))),
    "fp8": lambda prompt: prompt["model"]["inputs"].update(weight_dtype="fp8_e4m3fn"),
    "quantised layers": lambda prompt: prompt.update(model=QUANTIZED),
    "compiled": lambda prompt: prompt.update(placed(None, node("TestCompileModel", backend="eager"))),
}


@pytest.mark.parametrize(
    "first",
    [pytest.param(False, id="after the model itself"), pytest.param(True, id="before it", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_a_model_share_its_plan(fresh: Server, copy: str, first: bool) -> None:
    """LoRAs are noted, and no key; neither are precision and compiling."""
    prompts = [unplanned(steps=5), unplanned(steps=5)]
    COPIES[copy](prompts[0 if first else 1])
    for prompt in prompts:
        prompt["sampler"]["inputs"]["steps"] = 5
    _, line = generate(fresh, prompts[0])
    assert "kept as" in line
    generate(fresh, prompts[0])  # adds what a busy machine has left out
    _, line = generate(fresh, prompts[1])
    assert "calibrated plan of" in line
    patched_weights = load_header(kept(fresh)[0]).parameters["patched_weights"]
    assert (patched_weights > 0) == (first and "LoRA" in copy)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_plan_found_in_mid_run_reaches_compiled_code(fresh: Server, backend: str) -> None:
    """The same latents as uncompiled, from the step on in which the plan is found, and in the next run."""
    truths = [generate(fresh)[0] for _ in range(2)]
    shutil.rmtree(fresh.base / CALIBRATED)
    for says, truth in zip(("kept as", "calibrated plan of"), truths, strict=True):
        result, line = generate(fresh, placed(None, node("TestCompileModel", backend=backend)))
        assert says in line
        assert counts(line) == ((STEPS - WARM_UP) * LAYERS, WARM_UP * LAYERS)
        assert relative_difference(result, truth) <= SAMPLED


def test_an_interrupt_while_measuring_leaves_nothing_broken(fresh: Server) -> None:
    def interrupt_sampling() -> None:
        if re.search(r"[1-9]/400", fresh.log_text()[before:]):
            fresh.post("/interrupt")

    before = len(fresh.log_text())
    with pytest.raises(PromptError, match=r'execution_interrupted.*"node_id": "sampler"'):
        prompt = {**unplanned(steps=400), "save": save_latent(("sampler", 0), "latents/test")}
        fresh.run(prompt, while_running=interrupt_sampling)
    assert not list((fresh.base / PLANS).rglob("*wan-4x3x128*"))
    assert "kept as" in generate(fresh)[1]


def test_strict_accepts_a_first_run_and_names_what_kept_it_dense(fresh: Server) -> None:
    with pytest.raises(PromptError, match=r"Nothing ran sparse.*strict") as error:
        generate(fresh, unplanned(steps=4, strict=True, start_percent=1.0))
    assert fallback.WARM_UP.sentence in str(error.value)
    assert kept(fresh)  # what was measured is there all the same
    shutil.rmtree(fresh.base / CALIBRATED)
    assert "kept as" in generate(fresh, unplanned(steps=4, strict=True))[1]


def test_calibration_can_be_left_out(fresh: Server) -> None:
    _, line = generate(fresh, unplanned(calibrate=False))
    assert f"Not faster here: {fallback.NO_PLAN}" in line
    assert not (fresh.base / CALIBRATED).exists()


def test_calibration_keeps_the_memory_rules(fresh: Server) -> None:
    """Real model and loader; the recorder is a stand-in."""
    truths = [generate(fresh)[0] for _ in range(2)]
    shutil.rmtree(fresh.base / CALIBRATED)
    before = len(fresh.log_text())
    for truth in truths:
        result, _ = generate(fresh, placed(node("TestRecordedForward", plant=False)))
        assert torch.equal(result, truth)
    assert "RecordedForward" in new_log(fresh, before)


FAMILIES = ("wan vace", "hunyuan video", "hunyuan video 1.5", "cogvideox", "minimax h3", "ltx video", "ltx-2")


@pytest.mark.parametrize("case", [case for case in SPARSE if case.name in FAMILIES], ids=lambda case: case.name)
def test_every_family_calibrates_and_knows_its_models_again(models: Server, case: Case) -> None:
    """Two steps with guidance, texts of two lengths: the first step of the first run is dense, and no other."""
    forget_plans(models)
    place = {"patch": patch(backend="torch", start_percent=0.1, few_steps="auto")}
    found = []
    for first in (True, False):
        result, line = generate(models, case.sampled(place, "patch"))
        found.append(result)
        sparse, dense = counts(line)
        forwards = (sparse + dense) // (case.layers + case.dense)
        assert sparse == (forwards // 2 if first else forwards) * case.layers, line
        assert ("kept as" if first else "calibrated plan of") in line
    assert load_header(kept(models)[0]).grid == case.grid
    assert not torch.equal(*found)
