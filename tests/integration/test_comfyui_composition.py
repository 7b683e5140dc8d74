"""The patch node together with everything else people put into a workflow, in a real ComfyUI; effects on the latents.

A new case is one line of `COMPOSITIONS`; a node of the tests in it makes it a stand-in in the table of
benchmarks/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from comfyui.compositions import Composition, Reference, check, with_plan
from comfyui.neighbours import BACKEND, COMPILED, EASY_CACHE, INDUCTOR, LAZY_CACHE, MARKED, SHIFT, WINDOWS, lora
from comfyui.plans import LAYERS, add_plan
from comfyui.prompts import base, node, patch, stage
from comfyui.recording import record_small_wan
from comfyui.results import counts, latents, new_log, relative_difference
from comfyui.server import Server
from sparse_vdit.kernels.patterns import Dense, Diagonal
from tolerances import SAMPLED, SAMPLED_DENSE

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]

LORA = lora("strong")
SPARSE_OF_CORE = node("TestModelSparseAttention", min_tokens=12288)
ZERO_STAR = node("CFGZeroStar")
CONTAINED = node("TestContainedAttention")
LONG_TEXT = node("TestSceneConditioning", seed=-1, tokens=7)
TWO_VIDEOS = node("EmptyHunyuanLatentVideo", width=176, height=128, length=17, batch_size=2)
HOOKED = {
    "scene": node("TestSceneConditioning", seed=3),
    "first_key": node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0),
    "keys": node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.5, prev_hook_kf=("first_key", 0)),
    "lora": node("CreateHookLora", lora_name="strong.safetensors", strength_model=1.0, strength_clip=0.0),
    "hooks": node("SetHookKeyframes", hooks=("lora", 0), hook_kf=("keys", 0)),
    "positive": node("ConditioningSetProperties", cond_NEW=("scene", 0), hooks=("hooks", 0), strength=1.0,
                     set_cond_area="default"),
}  # fmt: skip
FP8 = node("UNETLoader", unet_name="small_wan.safetensors", weight_dtype="fp8_e4m3fn")
QUANTIZED = node("TestQuantizedLoader", unet_name="small_wan.safetensors")

COMPOSITIONS = [
    Composition("cfg 1", alike=True),
    Composition("cfg 3, both texts in one batch", sampling={"cfg": 3.0}, alike=True),
    Composition("cfg 3, texts of unequal length", 4, sampling={"cfg": 3.0}, nodes={"negative": LONG_TEXT}, alike=True),
    Composition("two videos in a batch", nodes={"latent": TWO_VIDEOS}),
    Composition("heun", 4, sampling={"sampler_name": "heun"}, alike=True),
    Composition("uni_pc", 2, sampling={"sampler_name": "uni_pc"}, alike=True),
    Composition("CFGZeroStar before", before=(ZERO_STAR,), sampling={"cfg": 3.0}),
    Composition("LoRA before", before=(LORA,)),
    Composition("LoRA by time (hook keyframes)", nodes=HOOKED),
    Composition("shift before", before=(SHIFT,)),
    Composition("EasyCache before", 2, before=(EASY_CACHE,), sampling={"steps": 6}),
    Composition("LazyCache before", 1, before=(LAZY_CACHE,)),
    Composition("context windows before", 4, before=(WINDOWS,)),
    Composition("ModelAttentionBackend after", after=(BACKEND,), alike=True, direct=(BACKEND,)),
    Composition("attention of its own before", before=(MARKED,), exact=False),
    Composition("attention of its own after", after=(MARKED,), exact=False, direct=(MARKED,)),
    Composition("Model Sparse Attention before", before=(SPARSE_OF_CORE,), alike=True),
    Composition("Model Sparse Attention after", after=(SPARSE_OF_CORE,), alike=True),
    Composition("attention containers", before=(CONTAINED,), alike=True),
    Composition("torch.compile (eager) before", before=(COMPILED,), alike=True, direct=()),
    Composition("fp8 weights", nodes={"model": FP8}),
    Composition("GGUF-style weights", nodes={"model": QUANTIZED}),
]

SLOW = [  # other orders and samplers, of which one is above, and compilers that take minutes
    Composition("dpm_2", 3, sampling={"sampler_name": "dpm_2"}, alike=True),
    Composition("seeds_2", 3, sampling={"sampler_name": "seeds_2"}, alike=True),
    Composition("CFGZeroStar after", after=(ZERO_STAR,), sampling={"cfg": 3.0}),
    Composition("LoRA after", after=(LORA,)),
    Composition("shift after", after=(SHIFT,)),
    Composition("EasyCache after", 2, after=(EASY_CACHE,), sampling={"steps": 6}),
    Composition("LazyCache after", 1, after=(LAZY_CACHE,)),
    Composition("context windows after", 4, after=(WINDOWS,)),
    Composition("ModelAttentionBackend before", before=(BACKEND,), alike=True),
    Composition("torch.compile (eager) after", after=(COMPILED,), alike=True, direct=()),
    Composition("TorchCompileModel before", before=(INDUCTOR,), alike=True, direct=()),
    Composition("TorchCompileModel after", after=(INDUCTOR,), alike=True, direct=()),
]


@pytest.fixture(scope="module")
def reference(server: Server) -> Reference:
    return Reference(server)


@pytest.mark.parametrize(
    "composition",
    [*COMPOSITIONS, *(pytest.param(composition, marks=pytest.mark.slow) for composition in SLOW)],
    ids=lambda composition: composition.name,
)
def test_composition(server: Server, reference: Reference, composition: Composition) -> None:
    check(server, reference, composition)


def staged(place: Callable[[str], dict] | None) -> dict:
    """Two models, one schedule of four steps, two samplers; behind each model what `place` makes of its plan's name."""
    prompt = {**base(), "model_2": base()["model"]}
    for model, plan, latent, sampler, start in (
        ("model", "sparse", "latent", "first", 0),
        ("model_2", "other", "first", "sampler", 2),
    ):
        if place is not None:
            prompt[f"{model}_placed"] = place(plan)
            prompt[f"{model}_placed"]["inputs"]["model"] = [model, 0]
        prompt[sampler] = stage(model if place is None else f"{model}_placed", latent, start)
    return {**prompt, **PLANS}


PLANS = {name: node("SparseVDiTLoadPlan", plan_name=f"user/{name}") for name in ("sparse", "other", "dense")}


def test_two_stages_with_two_models_and_two_plans(server: Server) -> None:
    """Each sampler follows its own model's plan, and the second has no warm-up of its own."""
    add_plan(server, "sparse", Diagonal(0))
    add_plan(server, "other", Diagonal(1))
    add_plan(server, "dense", Dense())
    plain = latents(server, staged(None))
    dense = latents(server, staged(lambda plan: patch(("dense", 0), start_percent=0.2, backend="torch")))
    before = len(server.log_text())
    sparse = latents(server, staged(lambda plan: patch((plan, 0), start_percent=0.2)))
    lines = [line for line in new_log(server, before).splitlines() if " sparse / " in line]
    direct = latents(server, staged(lambda plan: node("TestDirectPlan", plan=(plan, 0), start_percent=0.2)))
    assert [counts(line) for line in lines] == [(LAYERS, LAYERS), (2 * LAYERS, 0)]
    high, low = (float(re.search(r"at density ([\d.]+)", line)[1]) for line in lines)
    assert high < low
    assert relative_difference(dense, plain) <= SAMPLED_DENSE
    assert relative_difference(sparse, direct) <= SAMPLED_DENSE < 10 * SAMPLED < relative_difference(sparse, plain)
    found = {"dense": relative_difference(dense, plain), "sparse": relative_difference(sparse, plain)}
    found["direct"] = relative_difference(sparse, direct)
    record_small_wan("two stages, two models, two plans", (3 * LAYERS, LAYERS), **found)


def test_our_node_twice(server: Server, reference: Reference) -> None:
    """The last one wins, once, and the log warns of it: it is sparse after a plan, and dense after a sparse one."""
    add_plan(server, "sparse", Diagonal(0))
    add_plan(server, "other", Diagonal(1))
    add_plan(server, "dense", Dense())
    bare = Composition("bare")
    plain, (direct, calls) = reference.plain(bare), reference.direct(bare)
    sparse, lines = twice(server, "other", "sparse")
    assert [counts(line) for line in lines] == [(calls, LAYERS)]
    dense, lines = twice(server, "sparse", "dense")
    assert ["at density 1.00" in line for line in lines] == [True]
    found = {"dense": relative_difference(dense, plain), "sparse": relative_difference(sparse, plain)}
    found["direct"] = relative_difference(sparse, direct)
    assert max(found["dense"], found["direct"]) <= SAMPLED_DENSE < 10 * SAMPLED < found["sparse"]
    record_small_wan("our node twice: the last one wins", (calls, LAYERS), **found)


def twice(server: Server, first: str, last: str) -> tuple[torch.Tensor, list[str]]:
    """Latents with two patch nodes, each with the user's plan of this name, and the report's lines."""
    prompt = with_plan(Composition("twice"), last, backend="torch")
    prompt["first_plan"] = node("SparseVDiTLoadPlan", plan_name=f"user/{first}")
    prompt["first"] = patch(("first_plan", 0), start_percent=0.0)
    prompt["patch"]["inputs"]["model"] = ["first", 0]
    before = len(server.log_text())
    result, log = latents(server, prompt), new_log(server, before)
    assert log.count("this model was patched before; the later node counts") == 1
    return result, [line for line in log.splitlines() if " sparse / " in line]
