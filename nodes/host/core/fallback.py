"""The one type for "dense, because": why attention runs the model's own way, and what a user can do about it.

One constant for each reason, so that no reason has two wordings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ....kernels.memory import out_of_memory

LOG = logging.getLogger("sparse_vdit")
MAX_ERROR_TEXT = 300  # characters


@dataclass(frozen=True)
class Dense:
    """The decision to compute attention the model's own way. Two are equal if their reasons are.

    Attributes:
        reason: its text in reports.
        hint: what it means for a user and what to do; empty where the reason says all.
        intended: whether it follows from settings, plan or times, so that nothing has to be done about it.
        self_attention: whether a plan could be about such a call; reports leave the others out.
    """

    reason: str
    hint: str = field(default="", compare=False)
    intended: bool = field(default=False, compare=False)
    self_attention: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return self.reason


# the noise level decides
WARM_UP = Dense(
    "warm-up",
    "every step of this sampler lies in the warm-up; a smaller start_percent makes the later ones sparse",
    intended=True,
)
AFTER_END = Dense(
    "after end_percent",
    "the steps of this sampler come after end_percent; a larger one makes them sparse",
    intended=True,
)
MEASURED = Dense(
    "measured for a plan",
    "this run had only the step in which the heads were measured; the next one has a plan",
    intended=True,
)
NO_BAND = Dense(
    "no band of the plan covers this noise level",
    "the plan says nothing about these noise levels; it has to be measured there too, for Wan 2.2 on both models",
)

# the call decides
CROSS_ATTENTION = Dense("cross-attention", self_attention=False)
REFINER = Dense("attention of the text alone", self_attention=False)
MASKED = Dense("attention mask", "the model masks its attention, which the pack cannot follow in this model")
OWN_SCALE = Dense(
    "own softmax scale or grouped heads",
    "this model computes attention in a form that the pack does not support",
)
NO_LAYER = Dense(
    "block number unknown",
    "the model does not say which block is at work; ComfyUI may be too old for this pack, or another node runs the "
    "blocks itself",
)
BLOCK_ORDER = Dense(
    "block numbers do not rise",
    "the model's blocks do not run one after the other; perhaps another node runs them itself, or the compiler of "
    "TorchCompileModel has mixed them up, without which they run",
)
VACE_BLOCK = Dense(
    "VACE's own block, which no plan is about",
    "only VACE's own blocks reached the pack; perhaps another node runs the others itself",
    intended=True,
)
NO_TEXT = Dense("forward without a text", "the model ran without a text, and how its tokens lie is then unknown")
OTHER_TEXT = Dense(
    "text of another length than the one that is measured",
    "of prompts of unequal length, such as a negative one, only the first is measured, which is enough",
    intended=True,
)
OTHER_TOKENS = Dense(
    "sequence is not the token grid of this forward",
    "the model adds tokens that the pack does not know of, perhaps another node's reference or control",
)
OTHER_HEADS = Dense(
    "heads are not those of the model",
    "the model's heads are not those it was loaded with, perhaps another node changes it",
)
UNSEEN_FORWARD = Dense(
    "forward was not seen by the pack",
    "another node calls the model directly and bypasses the pack's hooks",
)
BACKEND_REFUSED = Dense("backend refused", "the chosen backend cannot run on this machine or with this model")
NO_KERNELS = Dense(
    "no fast kernels for this device",
    "no fast sparse kernel runs on this machine, and without one the model's own attention is faster",
)
DENSE_HEADS = Dense(
    "plan is dense here",
    "the plan keeps every head dense; search one with a smaller density",
    intended=True,
)
KEPT_DENSE = Dense("kept dense", "keep_dense names all that the plan has sparse; empty it", intended=True)
TOO_SMALL = Dense(
    "video is too small for the plan",
    "so few tokens leave nothing out; a larger or longer video does, or a plan that is profiled at this size",
)
CAPTURED = Dense(
    "ComfyUI records the block as a CUDA graph, which would replay one decision for every step",
    "the option --disable-cuda-graphs of ComfyUI prevents that",
)
NOT_FASTER = Dense(
    "sparse is not faster here",
    "longer or larger videos gain more, and so does a plan of smaller density",
    intended=True,
)

# what went wrong decides
NOT_FINITE = Dense(
    "sparse output was not finite",
    "sparse attention gave numbers that are not finite; please report it with the plan",
)
NOT_FINITE_INPUTS = Dense(
    "the model's own numbers were not finite",
    "q, k or v of the model were not finite before sparse attention, which then cannot be either; dense attention "
    "gives the same, so look for the cause in the model or its dtype",
)
KERNEL_FAILED = Dense(
    "a sparse kernel failed",
    "the sparse kernel failed on this machine; another backend may work, please report the message",
)
OUT_OF_MEMORY = Dense(
    "out of memory in sparse attention",
    "the GPU's memory was full; a smaller video, or more of the model kept outside of the GPU, helps",
)

# the run decides
NO_PLAN = Dense(
    "no plan is connected and none is shipped for this model yet: turn calibrate on, connect Load Sparse Plan, or make "
    "a plan with Profile Heads and Search Sparse Plan"
)
PROFILING = Dense("measured by Profile Heads", "this run only measures", intended=True)
NOT_CALIBRATED = Dense(
    "no plan was found while sampling",
    "the heads could not be measured in this run, the note beside it says why; where that is not the size of the "
    "video, Profile Heads may measure them",
)
NO_STEPS = Dense("this sampler had no steps", intended=True)
CUDA_GRAPHS = Dense("the model is compiled with CUDA graphs, which would replay one decision for every step")
NOT_COMPUTED = Dense(
    "the guider computed no forward of this MODEL: of two MODELs with the same weights ComfyUI computes the first one, "
    "patch that one, or load the weights from another file"
)
SEVERAL_GPUS = Dense("only a guider's first model is followed on several GPUs, this is another one")

BLOCKS_UNKNOWN = frozenset({NO_LAYER, BLOCK_ORDER})
"""Reasons of calls whose block the pack cannot tell; the run's list of blocks has gaps where they are."""

UNREACHED = (
    "no self-attention of the model reached the pack: another node computes attention itself (leave out one of the "
    "two, their order does not matter), or every step came from a cache"
)

_KNOWN = {value.reason: value for value in list(globals().values()) if isinstance(value, Dense)}


def dense_because(reason: str) -> Dense:
    """The constant with this reason, or a new one."""
    return _KNOWN.get(reason) or Dense(reason)


def other_model(plan: str, mismatch: str) -> Dense:
    """Why a plan of another model cannot run."""
    return Dense(
        f"plan {plan} does not fit, {mismatch}: load a plan of this model, or make one with Profile Heads and Search "
        "Sparse Plan"
    )


def no_family(name: str) -> Dense:
    """Why a class that no family takes stays dense."""
    return Dense(f"{name} is no model the pack knows (Wan, HunyuanVideo, CogVideoX, MiniMax H3, LTX)")


def passes_through(error: BaseException) -> bool:
    """Whether an error is the user's interrupt, an ordinary exception in some ComfyUIs, which has to be raised."""
    return any(cls.__name__ == "InterruptProcessingException" for cls in type(error).__mro__)


def of_error(error: Exception) -> tuple[Dense, str]:
    """Why calls that follow an error are dense, and the error in words."""
    lines = str(error).strip().splitlines() or ["no message"]
    text = f"{type(error).__name__}: {lines[0]}"[:MAX_ERROR_TEXT]
    if out_of_memory(error):
        return OUT_OF_MEMORY, f"memory ran out in sparse attention ({text})"
    if type(error).__name__ == "OutOfResources":  # Triton's, of shared memory or registers
        return KERNEL_FAILED, f"the sparse kernel needs more than this card has ({text})"
    return KERNEL_FAILED, f"the sparse kernel failed ({text})"


def failed(what: str, error: Exception) -> Dense:
    """An error in what the pack does around the video, which it never costs. An interrupt is raised again."""
    if passes_through(error):
        raise error
    LOG.warning("Sparse-vDiT: %s failed", what, exc_info=error)
    return Dense(f"{what} failed ({type(error).__name__}: {error})"[:MAX_ERROR_TEXT])
