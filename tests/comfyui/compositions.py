"""A workflow with and without the pack, everything else being the same: what the tests of compositions compare."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace

import torch
from sparse_vdit.kernels.patterns import Dense, Diagonal

from .plans import add_plan
from .prompts import LINK, base, ksampler, node, patch
from .results import counts, latents, new_log, relative_difference, report
from .server import Server

STEPS, START_PERCENT = 3, 0.2
"""The first of three steps lies above the noise level of 20 % of the schedule, the others below."""


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


def workflow(composition: Composition, place: dict | None) -> dict:
    """The workflow with this node in the pack's place, `model` still open; with nothing there when it is None."""
    prompt = {**base(), **composition.nodes}
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
        prompt = workflow(composition, node("TestDirectPlan", plan=("plan", 0), start_percent=START_PERCENT))
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
    add_plan(server, "dense", Dense())
    add_plan(server, "sparse", Diagonal(0))
    plain = reference.plain(composition)
    bare = reference.plain(Composition("bare", sampling=composition.sampling))
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

