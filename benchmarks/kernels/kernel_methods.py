"""What `kernels.py` measures: attention methods of this pack and of others on one case, and the exact answer.

A method prepares what may be prepared ahead of time (permuted copies, block masks) and gives a function to be timed.
One that is not installed or does not take the case raises, with its own reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module

import torch
import torch.nn.functional as F
from sparse_vdit.kernels.backends import triton_backend
from sparse_vdit.kernels.backends.launcher import through_triton
from sparse_vdit.kernels.backends.tile_copies import tile_copies
from sparse_vdit.kernels.call import AttentionCall
from sparse_vdit.kernels.configs import device_arch, kernel_config, packed_config
from sparse_vdit.kernels.lists import TileLists
from sparse_vdit.kernels.order import ORDERS, SPATIOTEMPORAL
from sparse_vdit.kernels.routing import routed_call
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.kernels.kernel_cases import Case
from benchmarks.quality.small_wan_runs import sparse_attention

SOL_BLOCK = 64
EXTRA_TOKENS = 256  # that each block of queries sees beyond its blocks: the default of ComfyUI's Model Sparse Attention


Run = Callable[[], Tensor]
Finish = Callable[[Tensor], Tensor]  # what a run returns, to (1, S, H, D)


@dataclass(frozen=True)
class Method:
    """How one method is made, and what it is measured against.

    Attributes:
        make: prepares a case; what it returns is timed, and what comes out finished into (1, S, H, D) untimed.
        truth: its exact answer: `lists`, `routed`, `dense`; None where the method chooses its own tiles.
        ideal: method whose dense time, times the density, is this one's ideal time.
        best: whether it counts as dense attention in the model's own precision.
        package: of PyPI, for its version.
        prepare: gives what comes before attention alone - quantizing, choosing tiles - to be timed by itself.
    """

    make: Callable[[Case], tuple[Run, Finish]]
    truth: str | None = "lists"
    ideal: str | None = None
    best: bool = False
    package: str | None = None
    prepare: Callable[[Case], Callable[[], object]] | None = None


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

    def prepare(case: Case) -> Callable[[], object]:
        call = AttentionCall(case.q, case.k, case.v, case.lists, case.numbers(kind), **options)
        if kind == "routed":
            return lambda: routed_call(call, triton_backend.choose)
        slots = case.lists.slots(call.pair_lists, case.q.shape[2])
        config = kernel_config(device_arch(case.q.device), case.q.shape[-1], call.int8)
        return lambda: list(tile_copies(call, config, slots, len(slots), through_triton))

    return Method(make, kind, prepare=prepare if backend == "triton" and (options or kind == "routed") else None)


def packed() -> Method:
    """Our kernel with packed keys and values, which no card takes yet, see `configs.packed_config`."""

    def make(case: Case) -> tuple[Run, Finish]:
        arch = device_arch(case.q.device)
        config = packed_config(arch, case.q.shape[-1]) if arch else None
        if config is None:
            raise ValueError(f"not for {arch} at head_dim {case.q.shape[-1]}" if arch else "needs a GPU")
        call = AttentionCall(case.q, case.k, case.v, case.lists, case.head_lists)
        return lambda: triton_backend.run(call, arch, through_triton, config), as_it_is

    return Method(make)


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


def sol(bricks: bool, tau: float | None = None, extra: int = 0) -> Method:
    """comfy-kitchen's top-k with pooled tail, on the sequence as it is or permuted ahead of time into our order; with
    `tau` its threshold chooses, and how many it keeps hangs on the data. `extra` single tokens are seen beyond these.

    Text stays dense both as queries and as keys, as it is for ours. Blocks that it keeps in any case (text, the own
    block and its neighbours) count towards the density.
    """

    def make(case: Case) -> tuple[Run, Finish]:
        attend = import_module("comfy_kitchen").sol_attn
        order = case.lists.index[ORDERS.index(SPATIOTEMPORAL)].long()
        q, k, v = (x[:, order] if bricks else x for x in (case.q, case.k, case.v))
        text = list(text_blocks(case, bricks))
        ratio = topk_ratio(-(-q.shape[1] // SOL_BLOCK), text[1] - text[0], case.density())
        choice = {"token_aug": extra} if extra else {}  # a comfy-kitchen without it says so
        choice |= {"topk_ratio": ratio} if tau is None else {"tau": tau}
        back = order.argsort()
        run = partial(attend, q, k, v, sink_blocks=text, sink_q=text, **choice)
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


MAX_TOPK = 0.999  # the kernel refuses 1, and all but nothing is dense attention


def topk_ratio(blocks: int, text: int, density: float) -> float:
    """Share of the blocks to choose so that, with text rows, text columns and three own blocks, `density` is kept."""
    video = max(1, blocks - text)
    in_video = (density * blocks**2 - text * blocks - text * video) / video  # kept blocks of a row of video
    own = min(3, video)
    return min(MAX_TOPK, max(1 / max(2, video), (in_video - own) / max(1, video - own)))


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
    kv_indices, kv_num_blocks = block_tables(lists, case.head_lists)
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(kv_num_blocks), torch.zeros_like(kv_indices), kv_num_blocks, kv_indices,  # all full
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
    block = torch.arange(-(-tokens // lists.query_tile), device=lists.kv_indices.device)
    row = block.clamp_max(lists.starts.shape[1] - 1)
    position = torch.arange(most, device=block.device)
    kv_indices, kv_num_blocks = [], []
    for number in head_lists:
        start, count = lists.starts[number, row, None], lists.kv_num_blocks[number, row, None]
        listed = lists.kv_indices[(start + position).clamp_max(len(lists.kv_indices) - 1).long()].int()
        kv_indices.append(torch.where(position < count, listed, (tiles + position - count).clamp_max(most - 1).int()))
        kv_num_blocks.append(count[:, 0] + most - tiles)
    return torch.stack(kv_indices)[None].contiguous(), torch.stack(kv_num_blocks)[None].int()


METHODS: dict[str, Method] = {
    "sdpa_cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
    "sdpa_flash": sdpa(SDPBackend.FLASH_ATTENTION),
    "sdpa": Method(make_sdpa, "dense", best=True),
    "fa3": flash("flash_attn_interface", "flash-attn-3"),
    "fa4": flash("flash_attn.cute", "flash-attn-4"),
    "ours_bf16": ours("triton"),
    "ours_int8": ours("triton", int8=True),
    "ours_packed": packed(),
    "ours_routed": replace(ours("triton", "routed"), ideal="ours_bf16"),
    "ours_ptx": ours("compiled"),
    "kitchen_int8": Method(make_kitchen_int8, "dense", package="comfy-kitchen"),
    "kitchen_sol_topk": sol(bricks=False),
    "kitchen_sol_topk_bricks": sol(bricks=True),
    "sage": Method(make_sage, "dense", package="sageattention"),
    "flex": Method(make_flex),
    "ours_torch": ours("torch"),
}
