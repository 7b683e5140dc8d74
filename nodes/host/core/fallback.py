"""The one type for "dense, because": why attention runs the model's own way, and what a user can do about it.

One constant for each reason, so that no reason has two wordings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from ....kernels.lists import TooManyPatterns
from ....kernels.memory import out_of_memory

LOG = logging.getLogger("sparse_vdit")
MAX_ERROR_TEXT = 300  # characters


@dataclass(frozen=True)
class Dense:
    """The decision to compute attention the model's own way. Two are equal if their reasons are.

    Attributes:
        reason: its short name, which reports count calls by.
        why: the same as a whole sentence, which a report may begin with; empty where the reason is one.
        advice: what the user can try, one or two sentences; may be empty.
        intended: whether it follows from settings, plan or times, so that nothing has to be done about it.
        self_attention: whether a plan could be about such a call; reports leave the others out.
    """

    reason: str
    why: str = field(default="", compare=False)
    advice: str = field(default="", compare=False)
    intended: bool = field(default=False, compare=False)
    self_attention: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return self.reason

    @property
    def sentence(self) -> str:
        """The reason as a sentence."""
        return self.why or self.reason


# the noise level decides
WARM_UP = Dense(
    "dense start",
    "every step of this sampler lies in the dense start",
    "Try a smaller start_percent.",
    intended=True,
)
AFTER_END = Dense(
    "after end_percent",
    "the steps of this sampler come after end_percent",
    "Try a larger end_percent.",
    intended=True,
)
MEASURED = Dense(
    "measured for a plan",
    "this run only measured the heads",
    "Change the seed and run again: the next run has a plan.",
    intended=True,
)
NO_BAND = Dense(
    "no band of the plan covers this noise level",
    "the plan does not cover the noise levels of this sampler",
    "Try Profile Heads with these steps; for Wan 2.2, profile both models.",
)

# the call decides
CROSS_ATTENTION = Dense("cross-attention", self_attention=False)
REFINER = Dense("attention of the text alone", self_attention=False)
MASKED = Dense("attention mask", "the model masks its attention in a way that is not supported")
OWN_SCALE = Dense("own softmax scale or grouped heads", "this form of attention is not supported")
NO_LAYER = Dense(
    "block number unknown",
    "the model does not say which block is running",
    "Try without other nodes that run the blocks themselves, or update ComfyUI.",
)
BLOCK_ORDER = Dense(
    "block numbers do not rise",
    "the blocks of the model do not run one after the other",
    "Try without TorchCompileModel, and without other nodes that run the blocks themselves.",
)
VACE_BLOCK = Dense(
    "VACE's own block, which no plan is about",
    "only VACE's own blocks reached this node",
    "Try without other nodes that run the blocks themselves.",
    intended=True,
)
NO_TEXT = Dense("forward without a text", "the model ran without a text, so the order of its tokens is unknown")
OTHER_TEXT = Dense(
    "text of another length than the one that is measured",
    "only one of two prompts of different length is measured",
    intended=True,
)
OTHER_TOKENS = Dense(
    "sequence is not the token grid of this forward",
    "the model has more tokens than its video explains",
    "Try without reference or control inputs of other nodes.",
)
OTHER_HEADS = Dense(
    "heads are not those of the model",
    "the number of heads changed after the model was loaded",
    "Try without other nodes that change the model.",
)
UNSEEN_FORWARD = Dense(
    "forward was not seen by the pack",
    "another node calls the model directly",
    "Try without that node.",
)
BACKEND_REFUSED = Dense(
    "backend refused",
    "the chosen backend cannot run on this machine or with this model",
    "Try backend auto.",
)
NO_KERNELS = Dense(
    "no fast kernels for this device",
    "no fast sparse kernel runs on this machine",
    "Try a newer NVIDIA driver, or install Triton; the details say which. fp8 weights are fine.",
)
DENSE_HEADS = Dense(
    "plan is dense here",
    "the plan keeps every head dense",
    "Try preset fast.",
    intended=True,
)
KEPT_DENSE = Dense(
    "kept dense", "keep_dense covers everything that the plan makes sparse", "Try an empty keep_dense.", intended=True
)
TOO_SMALL = Dense(
    "video is too small for the plan",
    "the video is too small for the plan to skip anything",
    "Try a larger or longer video, or a plan that was profiled at this size.",
)
CAPTURED = Dense(
    "ComfyUI records the block as a CUDA graph, which would replay one decision for every step",
    "ComfyUI records the blocks as CUDA graphs, which cannot change from step to step",
    "Try ComfyUI's option --disable-cuda-graphs.",
)
NOT_FASTER = Dense(
    "sparse is not faster here",
    "sparse attention took as long as the model's own",
    "Try a longer or larger video, or preset fast.",
    intended=True,
)

TOO_MANY_PATTERNS = Dense(
    "plan has too many patterns for this video",
    "the plan has too many patterns for so large a video",
    "Try a smaller video, or a plan with fewer patterns.",
)

# what went wrong decides
NOT_FINITE = Dense(
    "sparse output was not finite",
    "a sparse kernel returned NaN or infinity",
    "Please open an issue and attach the plan.",
)
NOT_FINITE_INPUTS = Dense(
    "the model's own numbers were not finite",
    "the model itself returned NaN or infinity",
    "This node did not cause it. Try another dtype of the model.",
)
KERNEL_FAILED = Dense(
    "a sparse kernel failed",
    advice="Try another backend, and please open an issue with the message in the log.",
)
OUT_OF_MEMORY = Dense(
    "out of memory in sparse attention",
    "the GPU ran out of memory in sparse attention",
    "Try a smaller video, or start ComfyUI with --lowvram.",
)

# the run decides
NO_PLAN = Dense(
    "no plan is connected, and no measured one ships for this model",
    advice="Try calibrate on, or connect a plan from Load Sparse Plan or Search Sparse Plan.",
)
PROFILING = Dense("measured by Profile Heads", "this run only measures", intended=True)
NOT_CALIBRATED = Dense(
    "no plan was found while sampling",
    "the heads could not be measured in this run",
    "Try a larger video, or Profile Heads.",
)
NO_STEPS = Dense("this sampler had no steps", intended=True)
CUDA_GRAPHS = Dense(
    "the model is compiled with CUDA graphs, which cannot change from step to step",
    advice="Try another mode of TorchCompileModel.",
)
NOT_COMPUTED = Dense(
    "the guider computed no forward of this MODEL",
    "two patched models share the same weights, and ComfyUI runs only the first one",
    "Put the node on that one, or load the file again under another name.",
)
SEVERAL_GPUS = Dense(
    "only the first model of a guider can run on several GPUs",
    advice="Leave out MultiGPU CFG Split after the second model.",
)
NO_RAYLIGHT = Dense(
    "raylight does not split the sequence of this model",
    advice="Try ulysses_degree 2 in raylight's initializer. If it is that, the pack does not know this raylight.",
)
ONLY_WAN = Dense(
    "with raylight only Wan runs sparse",
    advice="Try one GPU, with the node Sparse-vDiT Patch.",
)
OTHER_RANK = Dense(
    "another worker is dense",
    "another worker of raylight cannot run sparse",
    "The line of that worker in the log says why.",
)
UNREACHED = Dense(
    "no attention of the model reached this node",
    "another node computes the attention itself, or every step came from a cache",
    "Try without that node; their order does not matter.",
)

BLOCKS_UNKNOWN = frozenset({NO_LAYER, BLOCK_ORDER})
"""Reasons of calls whose block the pack cannot tell; the run's list of blocks has gaps where they are."""

_KNOWN = {value.reason: value for value in list(globals().values()) if isinstance(value, Dense)}


def dense_because(reason: str) -> Dense:
    """The constant with this reason, or a new one."""
    return _KNOWN.get(reason) or Dense(reason)


def other_model(plan: str, mismatch: str) -> Dense:
    """Why a plan of another model cannot run."""
    return Dense(f"plan {plan} is {mismatch}", advice="Try another plan, or disconnect it.")


def no_family(name: str) -> Dense:
    """Why a class that no family takes stays dense."""
    return Dense(
        f"{name} is not a supported model",
        advice="Supported are Wan, HunyuanVideo, CogVideoX, MiniMax H3 and LTX.",
    )


def passes_through(error: BaseException) -> bool:
    """Whether an error is the user's interrupt, an ordinary exception in some ComfyUIs, which has to be raised."""
    return any(cls.__name__ == "InterruptProcessingException" for cls in type(error).__mro__)


def of_error(error: Exception) -> tuple[Dense, str]:
    """Why calls that follow an error are dense, and the error in words."""
    lines = str(error).strip().splitlines() or ["no message"]
    text = f"{type(error).__name__}: {lines[0]}"[:MAX_ERROR_TEXT]
    if out_of_memory(error):
        return OUT_OF_MEMORY, f"memory ran out in sparse attention ({text})"
    if isinstance(error, TooManyPatterns):
        return TOO_MANY_PATTERNS, str(error)
    if type(error).__name__ == "OutOfResources":  # Triton's, of shared memory or registers
        return KERNEL_FAILED, f"the sparse kernel needs more than this card has ({text})"
    return KERNEL_FAILED, f"the sparse kernel failed ({text})"


def failed(what: str, error: Exception) -> Dense:
    """An error in what the pack does around the video, which it never costs. An interrupt is raised again."""
    if passes_through(error):
        raise error
    LOG.warning("Sparse-vDiT: %s failed", what, exc_info=error)
    return Dense(f"{what} failed ({type(error).__name__}: {error})"[:MAX_ERROR_TEXT])
