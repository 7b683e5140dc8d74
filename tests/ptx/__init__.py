"""A machine that executes PTX on a CPU, and a CUDA driver made of it: the shipped kernels run without a GPU.

`card.plugged` is the door. A launch goes through `library` (the driver's calls), `machine` (the grid) and `cta` (one
block, its threads as numpy vectors). `parsing` and `program` make a kernel ready to run. `arithmetic`, `movement`,
`mma`, `wgmma` and `tcgen05` hold the instructions. `cases` has calls of attention to run.

The machine knows no clusters, no atomics and no time. TMA is missing: its place is `movement.translate_cp`.
"""
