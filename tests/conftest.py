"""Makes the pack importable as `sparse_vdit`, and lets Triton kernels run without a GPU, before any test is read."""

import os

import torch

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # several threads make the interpreter many times slower
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import load_pack  # noqa: F401
