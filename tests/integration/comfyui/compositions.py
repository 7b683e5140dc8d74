"""A workflow with and without the pack, everything else being the same: what the tests of compositions compare."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from sparse_vdit.kernels.patterns import Dense, Diagonal
from sparse_vdit.plans.plan.files import save_plan
from sparse_vdit.plans.plan.plan import Plan
from tolerances import SAMPLED, SAMPLED_DENSE

from .plans import LAYERS, wan_plan
from .prompts import LINK, base, ksampler, node, patch
from .recording import record
from .results import PLANS, counts, latents, new_log, relative_difference, report
from .server import Server

STEPS, START_PERCENT = 3, 0.2
"""The first of three steps lies above the noise level of 20 % of the schedule, the others below."""


@dataclass(frozen=True)
class Subject:
    """The model that compositions are tried on.

    Attributes:
        family, model: as the table prints them.
        base: the nodes model, positive, negative and latent.
        layers: calls of a forward that its plans are about.
        plans: an all-dense plan `dense` and a sparse one `sparse`.
        direct: node that runs the sparse plan without the pack's patch node, `model` still open; `plan` is that plan.
    """

    family: str
    model: str
    base: dict
    layers: int
    plans: Mapping[str, Plan]
    direct: dict


SMALL_WAN = Subject(
    *("wan", "small Wan", base(), LAYERS),
    {"dense": wan_plan(Dense()), "sparse": wan_plan(Diagonal(0))},
    node("TestDirectPlan", plan=("plan", 0), start_percent=START_PERCENT),
)


@dataclass(frozen=True)
class Composition:
    """One row of the table.

    Attributes:
        name: as the table prints it.
        forwards: forwards of the model that have to run sparse.
        before, after: nodes from MODEL to MODEL on either side of the pack's place, first to last.
        sampling: inputs of KSampler, in the place of the base's.
        nodes: nodes to add, or to put in the place of the base's.
        exact: whether the all-dense plan runs through the pack's kernels too; False where another attention's numbers
            are wanted for dense heads.
        alike: whether the composition leaves the latents of an unpatched model nearly as they were.
        direct: nodes before the pack's place when it holds direct calls, None for those of `before` and `after`; for
            nodes that overwrite direct calls, or compile them for good.
        subject: what it is tried on.
    """

    name: str
    forwards: int = STEPS - 1
    before: tuple[dict, ...] = ()
    after: tuple[dict, ...] = ()
    sampling: dict = field(default_factory=dict)
    nodes: dict = field(default_factory=dict)
    exact: bool = True
    alike: bool = False
    direct: tuple[dict, ...] | None = None
    subject: Subject = SMALL_WAN

    @property
    def label(self) -> str:
        """The name, which says so where a node of the tests stands for another pack's or a newer ComfyUI's."""
        kinds = {element["class_type"] for element in (*self.before, *self.after, *self.nodes.values())}
        return f"{self.name} (stand-in)" if any(kind.startswith("Test") for kind in kinds - INPUTS) else self.name


INPUTS = {"TestSceneConditioning", "TestAnyConditioning", "TestAnyLatent"}
"""Nodes of the tests that every workflow has, in the place of text encoders."""


def workflow(composition: Composition, place: dict | None) -> dict:
    """The workflow with this node in the pack's place, `model` still open; with nothing there when it is None."""
    prompt = {**composition.subject.base, **composition.nodes}
    chain = [*composition.before, *([place] if place else []), *composition.after]
    link: LINK = ("model", 0)
    for number, element in enumerate(chain):
        name = "patch" if element is place else f"other_{number}"
        prompt[name] = {**element, "inputs": {**element["inputs"], "model": list(link)}}
        link = (name, 0)
    sampler = ksampler(link, STEPS, cfg=1.0)
    sampler["inputs"].update(composition.sampling)
    return {**prompt, "sampler": sampler}


def with_plan(composition: Composition, plan: str, **options: object) -> dict:
    """The workflow with the patch node and a plan of the user."""
    prompt = workflow(composition, patch(("plan", 0), start_percent=START_PERCENT, **options))
    return {**prompt, "plan": node("SparseVDiTLoadPlan", plan_name=f"user/{plan}")}


class Reference:
    """Latents of workflows without the pack's patch node, each of which runs once.

    Args:
        server: with the test pack.
    """

    def __init__(self, server: Server):
        self.server = server
        self._known: dict[str, tuple[torch.Tensor, str]] = {}

    def plain(self, composition: Composition) -> torch.Tensor:
        """Without anything in the pack's place."""
        return self._run(workflow(composition, None))[0]

    def direct(self, composition: Composition) -> tuple[torch.Tensor, int]:
        """With the sparse plan by direct calls of the backend, and the number of those calls."""
        if composition.direct is not None:
            composition = replace(composition, before=composition.direct, after=())
        prompt = workflow(composition, composition.subject.direct)
        result, log = self._run({**prompt, "plan": node("SparseVDiTLoadPlan", plan_name="user/sparse")})
        return result, sum(int(calls) for calls in re.findall(r"direct plan: (\d+) calls", log))

    def _run(self, prompt: dict) -> tuple[torch.Tensor, str]:
        key = json.dumps(prompt, sort_keys=True)
        if key not in self._known:
            before = len(self.server.log_text())
            self._known[key] = latents(self.server, prompt), new_log(self.server, before)
        return self._known[key]


@dataclass(frozen=True)
class Found:
    """What a composition gave: relative differences of latents, and the calls that the report counts.

    Attributes:
        effect: of the composition alone, unpatched, to the bare model.
        dense: of an all-dense plan to the unpatched model.
        sparse: of the sparse plan to the unpatched model.
        direct: of the sparse plan to direct calls of the backend.
        direct_calls: how many those were.
        line: the report.
    """

    effect: float
    dense: float
    sparse: float
    direct: float
    direct_calls: int
    sparse_calls: int
    dense_calls: int
    line: str


def compare(server: Server, reference: Reference, composition: Composition) -> Found:
    """Run a composition unpatched, with an all-dense plan, with a sparse one, and with that one by direct calls."""
    for name, plan in composition.subject.plans.items():
        save_plan(plan, server.base / PLANS / f"{name}.json", overwrite=True)
    plain = reference.plain(composition)
    bare = reference.plain(Composition("bare", sampling=composition.sampling, subject=composition.subject))
    dense = latents(server, with_plan(composition, "dense", backend="torch" if composition.exact else "auto"))
    before = len(server.log_text())
    sparse = latents(server, with_plan(composition, "sparse"))
    line = report(server, before)
    direct, direct_calls = reference.direct(composition)
    return Found(
        relative_difference(plain, bare) if plain.shape == bare.shape else 1.0,
        *(relative_difference(*pair) for pair in ((dense, plain), (sparse, plain), (sparse, direct))),
        direct_calls,
        *counts(line),
        line,
    )


def check(server: Server, reference: Reference, composition: Composition) -> None:
    """Record what a composition gives and hold it to what the table claims."""
    found, subject = compare(server, reference, composition), composition.subject
    record("workflows", family=subject.family, model=subject.model, workflow=composition.label, **asdict(found))
    assert (found.effect < SAMPLED) == composition.alike, found
    assert found.dense <= SAMPLED_DENSE, found
    assert found.sparse > 10 * SAMPLED, found
    assert found.direct <= SAMPLED_DENSE, found
    assert found.sparse_calls == found.direct_calls == composition.forwards * subject.layers, found
