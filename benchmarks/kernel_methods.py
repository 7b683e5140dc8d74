"""What `kernels.py` measures: attention methods of this pack and of others on one case, and the exact answer.

A method prepares what may be prepared ahead of time (permuted copies, block masks) and gives a function to be timed.
One that is not installed or does not take the case raises, with its own reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from importlib import import_module

import torch
import torch.nn.functional as F
from small_wan_runs import sparse_attention
from sparse_vdit.kernels.backends.launcher import through_triton
from sparse_vdit.kernels.backends.triton_backend import run as run_kernels
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.configs import device_arch, untried_configs
from sparse_vdit.kernels.lists import TileLists
from sparse_vdit.kernels.order import DEEP, ORDERS
from sparse_vdit.kernels.routing import routed_call
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SAMPLED_ROWS, SAMPLED_HEADS = 48, 4
SOL_BLOCK = 64


@dataclass(frozen=True)
class Case:
    """One shape at one density.

    Attributes:
        q, k, v: (1, S, H, D).
        lists: on the device of q.
        head_lists: list of each head, a mix of patterns of about the density.
        routed: number of the routed list of the same density.
        dense: number of the dense list.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lists: TileLists
    head_lists: tuple[int, ...]
    routed: int
    dense: int
    _truths: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def density(self, kind: str = "lists") -> float:
        """Computed pairs / all pairs of the lists that a method is given, see `Method.truth`."""
        numbers = self.numbers(kind)
        return sum(self.lists.densities[number] for number in numbers) / len(numbers)

    def numbers(self, kind: str) -> tuple[int, ...]:
        """List of each head for one kind of method."""
        every = {"dense": self.dense, "routed": self.routed}
        return (every[kind],) * len(self.head_lists) if kind in every else self.head_lists

    @cached_property
    def sample(self) -> tuple[Tensor, Tensor]:
        """Heads and query positions, spread evenly, that errors are taken from."""
        tokens, heads = self.q.shape[1:3]
        return tuple(
            torch.linspace(0, size - 1, min(size, most)).round().long().to(self.q.device)
            for size, most in ((heads, SAMPLED_HEADS), (tokens, SAMPLED_ROWS))
        )

    def error(self, out: Tensor, kind: str) -> float:
        """||out - exact|| / ||exact|| on sampled heads and rows of out (1, S, H, D)."""
        if kind not in self._truths:
            call = AttentionCall(self.q, self.k, self.v, self.lists, self.numbers(kind), tail=kind == "tail")
            self._truths[kind] = exact(routed_call(call), *self.sample)
        heads, rows = self.sample
        truth = self._truths[kind]
        return ((out[0][rows][:, heads].transpose(0, 1).float() - truth).norm() / truth.norm()).item()


def exact(call: AttentionCall, heads: Tensor, rows: Tensor) -> Tensor:
    """The answer of a call of batch 1 in fp32 for some heads and query positions: (heads, rows, D)."""
    lists, found = call.lists, []
    for head in heads.tolist():
        number = call.pair_lists[head]
        order = lists.index[lists.order_numbers()[number]].long()
        k, v = (x[0, :, head][order].float() for x in (call.k, call.v))
        keep = listed_keys(lists, number, order.argsort()[rows])
        bias = torch.zeros(keep.shape, device=k.device).masked_fill_(~keep, -torch.inf)
        if call.tail:
            tiled = lists.grid.video_tokens // lists.key_tile * lists.key_tile
            kept = keep[:, : tiled : lists.key_tile]
            summary = torch.full(kept.shape, math.log(lists.key_tile), device=k.device).masked_fill_(kept, -torch.inf)
            bias = torch.cat([bias, summary], 1)
            k, v = (torch.cat([x, x[:tiled].unflatten(0, (-1, lists.key_tile)).mean(1)]) for x in (k, v))
        scores = call.q[0, rows, head].float() @ k.T * k.shape[-1] ** -0.5
        found.append((scores + bias).softmax(-1) @ v)
    return torch.stack(found)


def listed_keys(lists: TileLists, number: int, places: Tensor) -> Tensor:
    """Keys of the sorted sequence that sorted queries attend by a list: bool (places, S)."""
    tiled = lists.grid.video_tokens // lists.key_tile * lists.key_tile
    keep = torch.ones(len(places), lists.grid.tokens, dtype=torch.bool, device=places.device)
    keep[:, :tiled] = False
    row = (places // lists.query_tile).clamp_max(lists.starts.shape[1] - 1)
    parts = zip(lists.starts[number, row].tolist(), lists.counts[number, row].tolist(), strict=True)
    for place, (start, count) in enumerate(parts):
        keep[place, :tiled].view(-1, lists.key_tile)[lists.columns[start : start + count].long()] = True
    return keep


Run = Callable[[], Tensor]
Finish = Callable[[Tensor], Tensor]  # what a run returns, to (1, S, H, D)


@dataclass(frozen=True)
class Method:
    """How one method is made, and what it is measured against.

    Attributes:
        make: prepares a case; what it returns is timed, and what comes out finished into (1, S, H, D) untimed.
        truth: its exact answer: `lists`, the same with `tail`, `routed`, `dense`; None for a choice of its own.
        ideal: method whose dense time, times the density, is this one's ideal time.
        best: whether it counts as dense attention in the model's own precision.
        package: of PyPI, for its version.
    """

    make: Callable[[Case], tuple[Run, Finish]]
    truth: str | None = "lists"
    ideal: str | None = None
    best: bool = False
    package: str | None = None


def as_it_is(out: Tensor) -> Tensor:
    """Nothing to finish."""
    return out


def heads_first(out: Tensor) -> Tensor:
    """(1, H, S, D) to (1, S, H, D)."""
    return out.transpose(1, 2)


def ours(backend: str, kind: str = "lists", **options: bool) -> Method:
    """One of this pack's kernels."""

    def make(case: Case) -> tuple[Run, Finish]:
        numbers = case.numbers(kind)
        return lambda: sparse_attention(case.q, case.k, case.v, case.lists, numbers, backend, **options), as_it_is

    return Method(make, kind)


def untried(name: str, int8: bool = False) -> Method:
    """Our kernel in a configuration that no card takes yet, see `configs.untried_configs`."""

    def make(case: Case) -> tuple[Run, Finish]:
        arch = device_arch(case.q.device)
        config = untried_configs(arch, case.q.shape[-1], int8).get(name)
        if config is None:
            raise ValueError(f"not for {arch} at head_dim {case.q.shape[-1]}")
        call = AttentionCall(case.q, case.k, case.v, case.lists, case.head_lists, int8=int8)
        return lambda: run_kernels(call, arch, through_triton, config), as_it_is

    return Method(make, ideal="ours_bf16")


def sdpa(backend: SDPBackend) -> Method:
    """PyTorch's own dense attention."""

    def make(case: Case) -> tuple[Run, Finish]:
        q, k, v = (x.transpose(1, 2) for x in (case.q, case.k, case.v))

        def run() -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return run, heads_first

    return Method(make, "dense", best=True)


def make_sdpa(case: Case) -> tuple[Run, Finish]:
    """Dense attention by PyTorch's own choice."""
    q, k, v = (x.transpose(1, 2) for x in (case.q, case.k, case.v))
    return lambda: F.scaled_dot_product_attention(q, k, v), heads_first


def flash(name: str, package: str) -> Method:
    """A FlashAttention package, (B, S, H, D) in and out."""

    def make(case: Case) -> tuple[Run, Finish]:
        attend = import_module(name).flash_attn_func
        return lambda: attend(case.q, case.k, case.v), lambda out: out[0] if isinstance(out, tuple) else out

    return Method(make, "dense", best=True, package=package)


def make_sage(case: Case) -> tuple[Run, Finish]:
    """Gets keys of its own: version 1 subtracts their mean in place."""
    attend, k = import_module("sageattention").sageattn, case.k.clone()
    return lambda: attend(case.q, k, case.v, tensor_layout="NHD", is_causal=False), as_it_is


def make_kitchen_int8(case: Case) -> tuple[Run, Finish]:
    attend = import_module("comfy_kitchen").int8_attention
    q, k, v = (x.transpose(1, 2) for x in (case.q, case.k, case.v))
    return lambda: attend(q, k, v), heads_first


def sol(bricks: bool) -> Method:
    """comfy-kitchen's top-k with pooled tail, on the sequence as it is or permuted ahead of time into our order.

    Text stays dense both as queries and as keys, as it is for ours. Blocks that it keeps in any case (text, the own
    block and its neighbours) count towards the density.
    """

    def make(case: Case) -> tuple[Run, Finish]:
        attend = import_module("comfy_kitchen").sol_attn
        order = case.lists.index[ORDERS.index(DEEP)].long()
        q, k, v = (x[:, order] if bricks else x for x in (case.q, case.k, case.v))
        text = list(text_blocks(case, bricks))
        ratio = topk_ratio(-(-q.shape[1] // SOL_BLOCK), text[1] - text[0], case.density())
        back = order.argsort()
        run = partial(attend, q, k, v, topk_ratio=ratio, sink_blocks=text, sink_q=text)
        return run, (lambda out: out[:, back]) if bricks else as_it_is

    return Method(make, None, package="comfy-kitchen")


def text_blocks(case: Case, bricks: bool) -> tuple[int, int]:
    """First and past-the-last block of 64 tokens that holds text; with both ends of the sequence the longer one."""
    grid = case.lists.grid
    if not grid.text_tokens:
        return 0, 0
    if not bricks and grid.prefix > grid.suffix:
        return 0, -(-grid.prefix // SOL_BLOCK)
    first = grid.tokens - (grid.text_tokens if bricks else grid.suffix)
    return first // SOL_BLOCK, -(-grid.tokens // SOL_BLOCK)


MOST_TOPK = 0.999  # the kernel refuses 1, and all but nothing is dense attention


def topk_ratio(blocks: int, text: int, density: float) -> float:
    """Share of the blocks to choose so that, with text rows, text columns and three own blocks, `density` is kept."""
    video = max(1, blocks - text)
    in_video = (density * blocks**2 - text * blocks - text * video) / video  # kept blocks of a row of video
    own = min(3, video)
    return min(MOST_TOPK, max(1 / max(2, video), (in_video - own) / max(1, video - own)))


@cache
def compiled_flex() -> Callable[..., Tensor]:
    """FlexAttention, compiled once for each shape."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def make_flex(case: Case) -> tuple[Run, Finish]:
    """On copies permuted ahead of time, as it cannot read through a token order."""
    from torch.nn.attention.flex_attention import BlockMask

    lists, (_, tokens, _, head_dim) = case.lists, case.q.shape
    index = lists.index[lists.orders[list(case.head_lists)].long()].long()
    q, k, v = (
        x[0].transpose(0, 1).gather(1, index[..., None].expand(-1, -1, head_dim))[None]
        for x in (case.q, case.k, case.v)
    )
    columns, counts = block_tables(lists, case.head_lists)
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(counts), torch.zeros_like(columns), counts, columns,  # none partial, all full
        BLOCK_SIZE=(lists.query_tile, lists.key_tile), seq_lengths=(tokens, tokens),
    )  # fmt: skip
    attend, back = compiled_flex(), index.argsort(1)[None, ..., None].expand(-1, -1, -1, head_dim)
    # its own choice for head_dim 64 on Hopper and later are key blocks of 128, larger than the mask's
    options = {"BLOCK_M": lists.query_tile, "BLOCK_N": lists.key_tile}
    run = partial(attend, q, k, v, block_mask=mask, kernel_options=options)
    return run, lambda out: out.gather(2, back).transpose(1, 2)


def block_tables(lists: TileLists, head_lists: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Tile lists as FlexAttention has them: key blocks (1, H, query blocks, most) and how many, int32."""
    tokens = lists.grid.tokens
    tiles, most = lists.grid.video_tokens // lists.key_tile, -(-tokens // lists.key_tile)
    block = torch.arange(-(-tokens // lists.query_tile), device=lists.columns.device)
    row = block.clamp_max(lists.starts.shape[1] - 1)
    position = torch.arange(most, device=block.device)
    columns, counts = [], []
    for number in head_lists:
        start, count = lists.starts[number, row, None], lists.counts[number, row, None]
        listed = lists.columns[(start + position).clamp_max(len(lists.columns) - 1).long()].int()
        columns.append(torch.where(position < count, listed, (tiles + position - count).clamp_max(most - 1).int()))
        counts.append(count[:, 0] + most - tiles)
    return torch.stack(columns)[None].contiguous(), torch.stack(counts)[None].int()


METHODS: dict[str, Method] = {
    "sdpa_cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa_flash": sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa": Method(make_sdpa, "dense", best=True),
    "fa3": flash("flash_attn_interface", "flash-attn-3"),
    "fa4": flash("flash_attn.cute", "flash-attn-4"),
    "ours_bf16": ours("triton"),
    "ours_int8": ours("triton", int8=True),
    "ours_packed": untried("packed"),
    "ours_int8_packed": untried("packed", int8=True),
    "ours_int8_fp8": untried("fp8", int8=True),
    "ours_tail": replace(ours("triton", "tail", tail=True), ideal="ours_bf16"),
    "ours_routed": replace(ours("triton", "routed"), ideal="ours_bf16"),
    "ours_ptx": ours("compiled"),
    "kitchen_int8": Method(make_kitchen_int8, "dense", package="comfy-kitchen"),
    "kitchen_sol_topk": sol(bricks=False),
    "kitchen_sol_topk_bricks": sol(bricks=True),
    "sage": Method(make_sage, "dense", package="sageattention"),
    "flex": Method(make_flex),
    "ours_torch": ours("torch"),
}
