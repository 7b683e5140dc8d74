"""Why attention ran dense, in words that stand in reports. One constant per reason, so that none is invented twice."""

from __future__ import annotations

# the noise level decides
WARM_UP = "warm-up"
AFTER_END = "after end_percent"
NO_BAND = "no band of the plan covers this noise level"

# the call decides
CROSS_ATTENTION = "cross-attention"
MASKED = "attention mask"
OWN_SCALE = "own softmax scale or grouped heads"
NO_LAYER = "block number unknown"
BLOCK_ORDER = "block numbers do not rise"
REFINER = "attention of the text alone"
VACE_BLOCK = "VACE's own block, which no plan is about"
NO_TEXT = "forward without a text"
OTHER_TOKENS = "sequence is not the token grid of this forward"
OTHER_HEADS = "heads are not those of the model"
UNSEEN_FORWARD = "forward was not seen by the pack"
REFUSED = "backend refused"
NO_KERNELS = "no fast kernels for this device"
DENSE_HEADS = "plan is dense here"

# the run decides
NO_PLAN = (
    "no plan is connected and none is shipped for this model yet: connect Load Sparse Plan, "
    "or make a plan with Profile Heads and Search Sparse Plan"
)
NO_RUN = "no run is active"
NOT_FINITE = "sparse output was not finite, the forward was computed again dense"
PROFILING = "measured by Profile Heads"
OTHER_TEXT = "text of another length than the one that is measured"
CUDA_GRAPHS = "the model is compiled with CUDA graphs, which would replay one decision for every step"
SEVERAL_GPUS = "the model runs on several GPUs at once, where the pack cannot yet follow each of them"

NOT_SELF_ATTENTION = frozenset({CROSS_ATTENTION, REFINER})
"""Reasons of calls that no plan is about; a report's count of dense calls leaves them out."""


def no_family(name: str) -> str:
    """Why a class that no family takes stays dense."""
    return f"{name} is no model the pack knows (Wan, HunyuanVideo, CogVideoX, MiniMax H3, LTX)"
