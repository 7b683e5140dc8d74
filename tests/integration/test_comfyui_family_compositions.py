"""Other families together with what people put into a workflow, in a real ComfyUI; small models with random weights.

Direct calls are masked softmax in fp64 here, on a sequence written by hand.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from comfyui.compositions import START_PERCENT, Composition, Reference, Subject, check
from comfyui.family_cases import ROWS, SPARSE
from comfyui.neighbours import BACKEND, COMPILED, EASY_CACHE, LAZY_CACHE, MARKED, SHIFT, lora
from comfyui.prompts import node
from comfyui.server import Server

pytestmark = pytest.mark.comfyui
pytest_plugins = ["comfyui.fixtures"]


LAYERS_IN_TURN = (ROWS[0], ROWS[2])
"""Without the row that is all dense on a grid of a few frames: such a layer is left to the model's own attention."""


def subject(name: str) -> Subject:
    """A case of the families, whose texts can run in one batch."""
    case = replace(next(case for case in SPARSE if case.name == name), rows=LAYERS_IN_TURN)
    plans = {"dense": case.dense_plan(), "sparse": case.plan()}
    return Subject(case.family, case.name, case.base(), case.layers, plans, case.direct(START_PERCENT))


def beside(subject: Subject) -> list[Composition]:
    """Compositions that every family is tried in."""
    file = subject.base["model"]["inputs"]["unet_name"].removesuffix(".safetensors")
    (one,) = json.loads(subject.base["latent"]["inputs"]["shapes"])
    two_videos = {"latent": node("TestAnyLatent", shapes=json.dumps([[2, *one[1:]]]))}
    fp8 = {"model": node("UNETLoader", unet_name=f"{file}.safetensors", weight_dtype="fp8_e4m3fn")}
    found = [
        Composition("cfg 1", alike=True),
        Composition("cfg 3, both texts in one batch", sampling={"cfg": 3.0}, alike=True),
        Composition("two videos in a batch", nodes=two_videos),
        Composition("heun", 4, sampling={"sampler_name": "heun"}, alike=True),
        Composition("LoRA before", before=(lora(file),)),
        Composition("LoRA after", after=(lora(file),)),
        Composition("EasyCache before", 2, before=(EASY_CACHE,), sampling={"steps": 6}),
        Composition("EasyCache after", 2, after=(EASY_CACHE,), sampling={"steps": 6}),
        Composition("LazyCache before", 1, before=(LAZY_CACHE,)),
        Composition("ModelAttentionBackend before", before=(BACKEND,), alike=True),
        Composition("ModelAttentionBackend after", after=(BACKEND,), alike=True, direct=(BACKEND,)),
        Composition("attention of its own before", before=(MARKED,), exact=False),
        Composition("attention of its own after", after=(MARKED,), exact=False, direct=(MARKED,)),
        Composition("torch.compile (eager) before", before=(COMPILED,), alike=True, direct=()),
        Composition("torch.compile (eager) after", after=(COMPILED,), alike=True, direct=()),
        Composition("fp8 weights", nodes=fp8),
    ]
    if subject.family == "hunyuan_video":
        found.append(Composition("shift before", before=(SHIFT,)))
    return [replace(composition, subject=subject) for composition in found]


REPEATED = ("heun", "LoRA after", "EasyCache after", "ModelAttentionBackend before")

COMPOSITIONS = [
    *beside(subject("hunyuan video, texts in one batch")),
    *beside(subject("cogvideox, texts in one batch")),
]


@pytest.fixture(scope="module")
def reference(models: Server) -> Reference:
    return Reference(models)


def parameter(composition: Composition) -> object:
    """Slow: a compiler, which goes through all blocks for each of the four runs, and orders that the small Wan has."""
    slow = COMPILED in (*composition.before, *composition.after) or composition.name in REPEATED
    name = f"{composition.subject.family}, {composition.name}"
    return pytest.param(composition, id=name, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("composition", [parameter(composition) for composition in COMPOSITIONS])
def test_composition(models: Server, reference: Reference, composition: Composition) -> None:
    check(models, reference, composition)
