"""raylight (github.com/komikndr/raylight): a plan in each of its workers, the ranks that share one sequence.

Its self-attention of Wan calls a function that exchanges parts of the sequence for heads (Ulysses). In a sparse forward
ours is in its place while a block attends, and nothing stays on the model.

Exchanges wait for all ranks. So these agree whether a forward is sparse before it begins, and whether it is repeated at
its end. What fails on one rank in between makes its heads dense there, and the exchanges go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.nn.functional import pad

from ...kernels.grid import TokenGrid
from ...kernels.sequence_parallel import HeadsOfRanks, attend_by_heads, deal_heads
from ...plans.plan.binding import BoundPlan
from ...plans.plan.plan import Plan
from ...plans.plan.text import plan_from_text
from .core import fallback
from .core.fallback import Dense, failed
from .hooks.own_attention import model_attention, undecorated
from .models import WAN, Inputs, detect, token_grid
from .policies.plan import PlanPolicy
from .session.call import Call, Sparse
from .session.run import Run
from .ui.summary import report_of

KEY = "sparse_vdit"
ATTENTION = "xfuser_optimized_attention"
"""What raylight's self-attention calls, a name in its module."""

say = partial(print, flush=True)  # a worker shows what it prints, and no log


def patched(patcher: object, plan_text: str, name: str, start_percent: float, end_percent: float) -> object:
    """A worker's MODEL with a plan, in the place of an earlier one.

    Raises:
        PlanError: the text is no plan.
    """
    patcher, plan = patcher.clone(), plan_from_text(plan_text).named(name)
    sample = partial(_outer_sample, plan, start_percent, end_percent)
    for kind, wrapper in ((WrappersMP.OUTER_SAMPLE, sample), (WrappersMP.DIFFUSION_MODEL, _diffusion_model)):
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)
    return patcher


def _outer_sample(plan: Plan, start: float, end: float, executor: object, *args: object, **kwargs: object) -> object:
    """The run's beginning and end, in each worker."""
    guider = executor.class_obj
    options = guider.model_options.setdefault("transformer_options", {})
    ranks = _begin(guider.model_patcher, plan, start, end)
    if isinstance(ranks, Dense):
        say(report_of(ranks))
        return executor(*args, **kwargs)
    options[KEY] = ranks
    try:
        out = executor(*args, **kwargs)
        ranks.run.collect()
    finally:
        options.pop(KEY, None)
        ranks.run.free()
    try:
        say(f"rank {ranks.rank} of {ranks.count}: {report_of(ranks.run)}")
    except Exception as error:
        failed("the report", error)
    return out


def _begin(patcher: object, plan: Plan, start: float, end: float) -> Ranks | Dense:
    """The run of this worker, or why all of it is dense: for that the others are asked too."""
    try:
        from xfuser.core.distributed import get_sp_group

        group = get_sp_group().device_group
    except (ImportError, AssertionError):  # the latter is xFuser's word for groups that were not made
        return fallback.NO_RAYLIGHT
    except Exception as error:
        return failed("finding raylight's ranks", error)
    if dist.get_world_size(group) == 1:
        return fallback.NO_RAYLIGHT
    try:
        policy = _policy(patcher, plan, start, end)
    except Exception as error:
        policy = failed("looking at the model", error)
    agree = partial(_agree, group, patcher.load_device)
    if agree(isinstance(policy, Dense)):
        return policy if isinstance(policy, Dense) else fallback.OTHER_RANK
    ranks = Ranks(policy, group, agree)
    ranks.run.try_kernels(partial(_target, patcher))
    agree(False)  # kernels are compiled now, and not while other ranks wait in an exchange, which times out
    return ranks


def _target(patcher: object) -> tuple[torch.device, torch.dtype]:
    cast = patcher.get_model_object("manual_cast_dtype")
    return patcher.load_device, cast or patcher.model.get_dtype()


def _policy(patcher: object, plan: Plan, start: float, end: float) -> PlanPolicy | Dense:
    family = detect(patcher.model.diffusion_model)
    if family is not WAN:
        return family if isinstance(family, Dense) else fallback.ONLY_WAN
    unfit = BoundPlan(plan).mismatch(WAN.name, *WAN.shape(patcher.model.diffusion_model))
    if unfit is not None:
        return fallback.other_model(plan.label, unfit)
    schedule = patcher.get_model_object("model_sampling")
    return PlanPolicy(plan, *(float(schedule.percent_to_sigma(percent)) for percent in (start, end)))


def _agree(group: dist.ProcessGroup, device: torch.device, here: bool) -> bool:
    """Whether something is so on any rank. Waits for all of them."""
    flag = torch.tensor(float(here), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX, group)
    return bool(flag)


@torch.compiler.disable
def _diffusion_model(executor: object, *args: object, **kwargs: object) -> Tensor:
    """Around one forward of the model."""
    inputs = {**dict(zip(WAN.arguments, args, strict=False)), **kwargs}
    ranks = (inputs.get("transformer_options") or {}).get(KEY)
    if ranks is None:
        return executor(*args, **kwargs)
    return ranks.forward(lambda: executor(*args, **kwargs), executor.class_obj, inputs)


class Ranks:
    """One sampling run on one of the ranks that share a sequence.

    Args:
        policy: of the plan, the same on every rank.
        group: of the ranks, in the order of their shards.
        agree: see `Run`.

    Attributes:
        dense: why the forward now running is dense, on all ranks.
    """

    def __init__(self, policy: PlanPolicy, group: dist.ProcessGroup, agree: Callable[[bool], bool]):
        self.policy, self.group, self.run = policy, group, Run(policy)
        self.count, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.run.agree = agree
        self.dense: Dense | None = None
        self._grid = TokenGrid(1, 1, 1)
        self._shares: list[tuple[HeadsOfRanks, Sparse] | Dense] = []  # by layer
        self._known: WeakKeyDictionary[Sparse, tuple[HeadsOfRanks, Sparse]] = WeakKeyDictionary()

    def forward(self, compute: Callable[[], Tensor], model: nn.Module, inputs: Inputs) -> Tensor:
        """Output of a forward, sparse where all ranks can; repeated dense where that went wrong on one of them."""
        run, sigma = self.run, None
        with run.guarded():
            sigma = float(inputs["transformer_options"]["sigmas"].flatten()[0])
            run.begin_step(sigma)
            if run.forward_is_dense is None:
                run.forward_is_dense = self._prepare(model, inputs)
        if run.agree(run.forward_is_dense is not None) and run.forward_is_dense is None:
            run.forward_is_dense = fallback.OTHER_RANK
        self.dense = run.forward_is_dense
        run.begin_forward(inputs["x"].device, sigma)
        out = self._compute(compute, model)
        if self.dense is None and run.go_dense_where_spoiled():
            self.dense = run.stopped
            out = self._compute(compute, model)
            run.end_repeated()
        return out

    def _prepare(self, model: nn.Module, inputs: Inputs) -> Dense | None:
        """Deal the heads of each layer to the ranks; why the forward has to be dense where that cannot be."""
        if any(ATTENTION not in _names(block.self_attn.forward) for block in model.blocks):
            return fallback.NO_RAYLIGHT
        grid = token_grid(model, WAN, inputs)
        if isinstance(grid, Dense):
            return grid
        self._grid = grid
        self._shares = [self._share(layer, inputs["x"]) for layer in range(self.policy.plan.layers)]
        return None

    def _share(self, layer: int, x: Tensor) -> tuple[HeadsOfRanks, Sparse] | Dense:
        """Heads of each rank, and what this one has to do; or why the layer is dense, on every rank."""
        plan = self.policy.plan
        token = x.new_empty(1, 1, plan.heads, plan.head_dim)
        whole = self.policy.decide(Call(layer, self._grid, token, token, token))
        if isinstance(whole, Dense):
            return whole
        if whole not in self._known:
            densities = [whole.lists.densities[number] for number in whole.head_lists]
            dealt = deal_heads(densities, self.count)
            mine = dealt[self.rank]
            # of what a rank computes without a plan: an equal number of dense heads
            density = sum(densities[head] for head in mine) * self.count / plan.heads
            numbers = tuple(whole.head_lists[head] for head in mine)
            self._known[whole] = dealt, replace(whole, head_lists=numbers, density=density)
        return self._known[whole]

    def _compute(self, compute: Callable[[], Tensor], model: nn.Module) -> Tensor:
        """The forward, with the blocks' self-attention in our hands."""
        modules = [block.self_attn for block in model.blocks]
        forwards = [module.forward for module in modules]
        try:
            for layer, (module, forward) in enumerate(zip(modules, forwards, strict=True)):
                module.forward = partial(self._self_attention, layer, forward)
            return compute()
        finally:
            for module, forward in zip(modules, forwards, strict=True):
                module.forward = forward

    def _self_attention(self, layer: int, forward: Callable, *args: object, **kwargs: object) -> Tensor:
        names = _names(forward)
        attention = names.get(ATTENTION)
        if attention is None:
            self.run.stats.count_dense(self.dense, layer)
            return forward(*args, **kwargs)
        names[ATTENTION] = partial(self._attend, layer, attention)
        try:
            return forward(*args, **kwargs)
        finally:
            names[ATTENTION] = attention

    def _attend(
        self,
        layer: int,
        attention: Callable,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        *more: object,
        **others: object,
    ) -> Tensor:
        """In the place of raylight's function: from shards (B, S / ranks, H*D) to the shard of the output."""
        share = self.dense or self._shares[layer]
        why = share if isinstance(share, Dense) else self._refusal(q, k, v, heads, bool(more or others))
        if isinstance(share, Dense) or why is not None:
            self.run.stats.count_dense(why, layer)
            self.run.check.look_at_inputs(layer, (q, k, v))
            return attention(q, k, v, heads, *more, **others)
        dealt, sparse = share
        q, k, v = (x.unflatten(2, (heads, -1)) for x in (q, k, v))
        local = partial(self._local, layer, dealt[self.rank], sparse)
        return attend_by_heads(q, k, v, dealt, local, group=self.group).flatten(2)

    def _refusal(self, q: Tensor, k: Tensor, v: Tensor, heads: int, more: bool) -> Dense | None:
        """Why a call, perhaps with more arguments such as a mask, is dense, by what is the same on every rank."""
        if more:
            return fallback.MASKED
        plan, tokens = self.policy.plan, -(-self._grid.tokens // self.count)
        if (heads, q.shape[-1]) != (plan.heads, plan.heads * plan.head_dim):
            return fallback.OTHER_HEADS
        return None if q.shape[1:-1] == k.shape[1:-1] == v.shape[1:-1] == (tokens,) else fallback.OTHER_TOKENS

    def _local(self, layer: int, mine: tuple[int, ...], sparse: Sparse, *qkv: Tensor) -> Tensor:
        """Attention (B, S, heads, D) of this rank's heads. The tokens that raylight adds at the end are left out."""
        tokens = self._grid.tokens
        q, k, v = (x[:, :tokens] for x in qkv)
        out = self.run.attend(Call(layer, self._grid, q, k, v, heads=mine, decided=sparse))
        if out is None:
            dense = undecorated(model_attention())
            out = dense(q.flatten(2), k.flatten(2), v.flatten(2), len(mine)).unflatten(2, (len(mine), -1))
        return pad(out, (0, 0, 0, 0, 0, qkv[0].shape[1] - tokens))


def _names(forward: Callable) -> dict:
    """What a function finds in its module by name."""
    return getattr(forward, "__globals__", {})
