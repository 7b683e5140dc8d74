"""Why attention ran dense, in words that stand in reports. One constant per reason, so that none is invented twice."""

from __future__ import annotations

# the noise level decides
WARM_UP = "warm-up"
AFTER_END = "after end_percent"
MEASURED = "measured for a plan"
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
KEPT_DENSE = "kept dense"
TOO_SMALL = "video is too small for the plan"
CAPTURED = "ComfyUI records the block as a CUDA graph, which would replay one decision for every step"
NOT_FASTER = "sparse is not faster here"

# what went wrong decides
NOT_FINITE = "sparse output was not finite, computed again dense"
OFTEN_NOT_FINITE = "sparse output was not finite too often"
KERNEL_FAILED = "a sparse kernel failed"
OUT_OF_MEMORY = "out of memory in sparse attention"

# the run decides
NO_PLAN = (
    "no plan is connected and none is shipped for this model yet: turn calibrate on, connect Load Sparse Plan, "
    "or make a plan with Profile Heads and Search Sparse Plan"
)
PROFILING = "measured by Profile Heads"
NOT_CALIBRATED = "no plan was found while sampling"
OTHER_TEXT = "text of another length than the one that is measured"
CUDA_GRAPHS = "the model is compiled with CUDA graphs, which would replay one decision for every step"
SEVERAL_GPUS = "the model runs on several GPUs at once, where the pack cannot yet follow each of them"

NOT_SELF_ATTENTION = frozenset({CROSS_ATTENTION, REFINER})
"""Reasons of calls that no plan is about; a report's count of dense calls leaves them out."""

BLOCKS_UNKNOWN = frozenset({NO_LAYER, BLOCK_ORDER})
"""Reasons of calls whose block the pack cannot tell; the run's list of blocks has gaps where they are."""

INTENDED = frozenset(
    {WARM_UP, AFTER_END, MEASURED, VACE_BLOCK, DENSE_HEADS, KEPT_DENSE, NOT_FASTER, PROFILING, OTHER_TEXT}
)
"""Reasons that follow from settings, plan and times: with sparse calls beside them nothing has to be done."""

MENDS = {
    WARM_UP: "every step of this sampler lies in the warm-up; a smaller start_percent makes the later ones sparse",
    AFTER_END: "the steps of this sampler come after end_percent; a larger one makes them sparse",
    MEASURED: "this run had only the step in which the heads were measured; the next one has a plan",
    NO_BAND: "the plan says nothing about these noise levels; it has to be measured there too, for Wan 2.2 on both "
    "models",
    MASKED: "the model masks its attention, which the pack cannot follow in this model",
    OWN_SCALE: "the model computes attention in a way of its own, which the pack cannot follow",
    NO_LAYER: "the model does not say which block is at work; ComfyUI may be too old for this pack, or another node "
    "runs the blocks itself",
    BLOCK_ORDER: "the model's blocks do not run one after the other; perhaps another node runs them itself, or the "
    "compiler of TorchCompileModel has mixed them up, without which they run",
    VACE_BLOCK: "only VACE's own blocks reached the pack; perhaps another node runs the others itself",
    NO_TEXT: "the model ran without a text, and how its tokens lie is then unknown",
    OTHER_TEXT: "of prompts of unequal length, such as a negative one, only the first is measured, which is enough",
    OTHER_TOKENS: "the model adds tokens that the pack does not know of, perhaps another node's reference or control",
    OTHER_HEADS: "the model's heads are not those it was loaded with, perhaps another node changes it",
    UNSEEN_FORWARD: "another node runs the model in a way of its own, past the pack",
    REFUSED: "the chosen backend cannot run on this machine or with this model",
    NO_KERNELS: "no fast sparse kernel runs on this machine, and without one the model's own attention is faster",
    DENSE_HEADS: "the plan keeps every head dense; search one with a smaller density, or empty keep_dense on the node "
    "that gives it",
    KEPT_DENSE: "keep_dense names all that the plan has sparse; empty it",
    TOO_SMALL: "so few tokens leave nothing out; a larger or longer video does, or a plan that is profiled at this "
    "size",
    CAPTURED: "the option --disable-cuda-graphs of ComfyUI prevents that",
    NOT_FASTER: "longer or larger videos gain more, and so does a plan of smaller density",
    NOT_FINITE: "sparse attention gave numbers that are not finite; please report it with the plan",
    OFTEN_NOT_FINITE: "sparse attention gave numbers that are not finite; please report it with the plan",
    KERNEL_FAILED: "the sparse kernel failed on this machine; another backend may work, please report the message",
    OUT_OF_MEMORY: "the GPU's memory was full; a smaller video, or more of the model kept outside of the GPU, helps",
    PROFILING: "this run only measures",
    NOT_CALIBRATED: "the heads could not be measured in this run, the note beside it says why; where that is not the "
    "size of the video, Profile Heads may measure them",
}
"""What a user can make of a reason, and do about it."""

UNREACHED = (
    "no self-attention of the model reached the pack: another node computes attention itself (leave out one of the "
    "two, their order does not matter), or every step came from a cache"
)


def other_model(plan: str, mismatch: str) -> str:
    """Why a plan of another model cannot run."""
    return (
        f"plan {plan} does not fit, {mismatch}: load a plan of this model, or make one with Profile Heads and Search "
        "Sparse Plan"
    )


def no_family(name: str) -> str:
    """Why a class that no family takes stays dense."""
    return f"{name} is no model the pack knows (Wan, HunyuanVideo, CogVideoX, MiniMax H3, LTX)"
