"""What the speed model takes a card's hardware to be, with the source of each number.

A number without a source is a guess, and its comment says so. Throughput is of one multiprocessor and clock.

Sources:
    guide: CUDA C++ programming guide, throughput of native arithmetic instructions and technical specifications by
        compute capability.
    GA100, GA102, AD102, GH100, GB202: NVIDIA's whitepapers of these chips and the data sheets of the cards.
    Luo: Luo et al., microbenchmarks of A100, RTX 4090 and H800, arXiv 2402.13499.
    Huerta: Huerta et al., how the cores of RTX A6000 issue, arXiv 2503.20481.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One card.

    Attributes:
        multiprocessors, ghz: their number, and the specified boost clock in 10^9 cycles a second.
        fp32_sums, fp16_sums, int8: multiply-adds of the tensor cores, of 16-bit floats by the type of the sum.
        lanes: fp32 multiply-adds outside the tensor cores.
        l2_bytes: that one multiprocessor reads from the L2 cache while all of them do.
        shared: bytes of shared memory for programs.
        threads: that are resident at most.
        mma_sync: what part of the tensor cores' rate the instructions of older cards (`mma.sync`) reach.
        special: exponentials and other special functions (guide).
        slow_conversion: integers become floats on the unit of special functions.
    """

    name: str
    arch: str
    multiprocessors: int
    ghz: float
    fp32_sums: int
    fp16_sums: int
    int8: int
    lanes: int
    l2_bytes: float
    shared: int
    threads: int
    mma_sync: float = 1.0
    special: int = 16
    slow_conversion: bool = False


CARDS = {
    card.name: card
    for card in (
        # GA100: 312 TFLOP/s, 624 TOPS; lanes, shared, threads, conversions: guide; l2_bytes: guess
        Card("A100", "sm_80", 108, 1.41, 1024, 1024, 2048, 64, 32, 167_936, 2048, slow_conversion=True),
        # GA102: 71 TFLOP/s with sums in fp32, 142 in fp16, 284 TOPS; l2_bytes: guess
        Card("RTX 3090", "sm_86", 82, 1.695, 256, 512, 1024, 128, 15, 102_400, 1536),
        # AD102: 165.2 TFLOP/s with sums in fp32, 330.3 in fp16, 660.6 TOPS; l2_bytes: guess
        Card("RTX 4090", "sm_89", 128, 2.52, 256, 512, 1024, 128, 15, 102_400, 1536),
        # GH100: 989 TFLOP/s, 1,979 TOPS; mma_sync: near Luo's figure; l2_bytes: guess
        Card("H100", "sm_90", 132, 1.83, 2048, 2048, 4096, 128, 30, 233_472, 2048, mma_sync=0.62),
        # data sheet of the B200: 2,250 TFLOP/s, 4,500 TOPS; guesses: ghz, l2_bytes, and mma_sync, set to an A100's rate
        Card("B200", "sm_100", 148, 1.85, 4096, 4096, 8192, 128, 36, 233_472, 2048, mma_sync=0.25),
        # the same with twice the special functions (NVIDIA, Inside Blackwell Ultra); it is an sm_103, for which code of
        # sm_100 stands here; guesses as for the B200, and that its clock is the same
        Card("B300", "sm_100", 148, 1.85, 4096, 4096, 8192, 128, 36, 233_472, 2048, mma_sync=0.25, special=32),
        # GB202: 209.5 TFLOP/s with sums in fp32, 419 in fp16, 838 TOPS; l2_bytes: guess
        Card("RTX 5090", "sm_120", 170, 2.41, 256, 512, 1024, 128, 17, 102_400, 1536),
        # the same chip without the GeForce cards' limit on sums in fp32; guesses: ghz, l2_bytes
        Card("RTX PRO 5000", "sm_120", 110, 2.3, 512, 512, 1024, 128, 17, 102_400, 1536),
    )
}

SHIPPED_CARDS = {
    "sm_80": "A100", "sm_86": "RTX 3090", "sm_89": "RTX 4090", "sm_90": "H100", "sm_100": "B200", "sm_120": "RTX 5090",
}  # fmt: skip
"""One card for each architecture, for which predictions are made."""

SCHEDULERS = 4  # of a multiprocessor, each with a quarter of its warps and units (whitepapers)
REGISTERS = 65_536  # of a multiprocessor; they are given in portions of 256 to each warp (guide)
REGISTER_PORTION = 256
SHARED_RESERVED = 1024  # bytes that each program takes besides its own (guide)

# bytes that one multiprocessor gets from L2 in a clock while others are quiet: fitted, on one published speed, that of
# the 64x64 kernel on the RTX PRO 5000
L2_BURST = 64

# with several programs on a multiprocessor the replay is too fast: fitted on published speeds of kernels with two of
# them, Triton's tutorial at head_dim 64 on the H100 and A100, and comfy-kitchen's block-sparse kernel on the RTX 5090
SEVERAL_PROGRAMS = 0.88

# Cycles until a result is there. Those of matrix products, shared memory and special functions are rounded from
# microbenchmarks such as Luo's and Huerta's, one number for all cards. Guesses: WGMMA, TCGEN05, GLOBAL, ASYNC, LOCAL,
# CONSTANT, MBARRIER, BARRIER, FENCE, BRANCH, TENSOR_MEMORY.
MATRIX, WGMMA, TCGEN05 = 33, 24, 40
LDMATRIX, SHARED, SHUFFLE, SPECIAL = 28, 22, 22, 14
GLOBAL, ASYNC, LOCAL, CONSTANT, MBARRIER = 250, 500, 35, 40, 20
BARRIER, FENCE, BRANCH, TENSOR_MEMORY = 20, 12, 12, 30

# how many instructions wait before a unit until its scheduler stalls: guesses
QUEUES = {"shared": 10, "special": 3, "wgmma": 4}
