"""Nodes for tests alone that make trouble: kernels that fail, times that are given, forwards that are recorded."""

import itertools
import logging
import sys

import torch
from torch.utils._pytree import tree_flatten

from .graph_recorder import GraphRecorder

PACK_FOLDER = "sparse.vdit"  # part of what the tests' server calls the pack


def _module_of_the_pack(name):
    return next(module for found, module in sys.modules.items() if found.endswith(name))


class TroubleInKernel:
    """A MODEL whose runs meet trouble in some of the pack's own sparse calls, counted from 0 over the run.

    `error`: the kernel fails. `out of memory`: as CUDA says it. `not finite`: head 1 gives NaN.
    """

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        trouble = ["error", "out of memory", "not finite"]
        call = ("INT", {"default": 0, "min": 0, "max": 10000})
        return {"required": {"model": ("MODEL",), "trouble": (trouble,), "first": call, "last": call}}

    def make(self, model, trouble, first, last):
        model = model.clone()

        def sampler_sample(executor, *args, **kwargs):
            execution = _module_of_the_pack("nodes.host.session.execution")
            plain, calls = execution.run_call, itertools.count()

            def run_call(*call):
                out, number = plain(*call), next(calls)
                if not first <= number <= last:
                    return out
                if trouble == "error":
                    raise RuntimeError("kernel trouble was asked for")
                if trouble == "out of memory":
                    raise torch.OutOfMemoryError("CUDA out of memory, as was asked for")
                out[:, :, 1] = float("nan")
                return out

            execution.run_call = run_call
            try:
                return executor(*args, **kwargs)
            finally:
                execution.run_call = plain
                logging.info(f"TroubleInKernel: {next(calls)} sparse calls")

        model.add_wrapper("sampler_sample", sampler_sample)
        return (model,)


class TimesGiven:
    """A MODEL whose attention takes as long as is said here, so that no test hangs on a machine's speed."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        milliseconds = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1e6})
        return {"required": {"model": ("MODEL",), "dense": milliseconds, "exact": milliseconds}}

    def make(self, model, dense, exact):
        model = model.clone()

        def sampler_sample(executor, *args, **kwargs):
            clock = _GivenClock({"dense": dense, "exact": exact})
            run = _module_of_the_pack("nodes.host.session.run").current_run()
            run.clock = run.executor.clock = clock
            try:
                return executor(*args, **kwargs)
            finally:
                logging.info(
                    f"TimesGiven: timed {clock.timed.count('dense')} dense, {clock.timed.count('exact')} exact"
                )

        model.add_wrapper("sampler_sample", sampler_sample)
        return (model,)


class _GivenClock:
    def __init__(self, milliseconds):
        self.milliseconds, self.timed = milliseconds, []

    def reserve(self, device, calls):
        pass

    def ready(self, device):
        return True

    def start(self, device, what, done):
        self.timed.append(what)
        return lambda: done(self.milliseconds[what])

    def collect(self, wait=False):
        pass

    def free(self):
        pass


def _attends(line):
    """Whether a line of the stack is of the pack's attention. Its wrappers are around the whole of the model."""
    return PACK_FOLDER in line and any(name in line for name in ("override", "compile_op"))


class RecordedForward:
    """A MODEL whose forwards are watched as newer ComfyUIs record them, by a stand-in (`graph_recorder.py`). Put it
    before the pack's node, so that its wrapper is the outer one. `plant` keeps the pack's outputs. The log says
    how many sequences of allocations the blocks of one shape had."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",), "plant": ("BOOLEAN", {"default": False})}}

    def make(self, model, plant):
        model = model.clone()
        kept, recorder = [], GraphRecorder(_attends)

        def diffusion_model(executor, *args, **kwargs):
            prefetch = sys.modules["comfy.model_prefetch"]
            prefetch.pause_malloc_graph = recorder.pause
            run = _module_of_the_pack("nodes.host.session.run").Run
            plain = run.attend

            def keeping(*call):
                kept.append(plain(*call))
                return kept[-1]

            run.attend = keeping if plant else plain
            try:
                return recorder.record(lambda: executor(*args, **kwargs), executor.class_obj, _shapes(args, kwargs))
            finally:
                del prefetch.pause_malloc_graph
                run.attend = plain
                counted = recorder.allocations, recorder.pauses, recorder.most_sequences()
                logging.info("RecordedForward: {} allocations, {} pauses, {} sequences".format(*counted))

        model.add_wrapper("diffusion_model", diffusion_model)
        return (model,)


def _shapes(args, kwargs):
    """Of all tensors that a model is given, as they decide what its blocks allocate."""
    given = [args, sorted((name, value) for name, value in kwargs.items() if name != "transformer_options")]
    return tuple(tuple(x.shape) for x in tree_flatten(given)[0] if isinstance(x, torch.Tensor))


TROUBLE_NODES = {
    "TestTroubleInKernel": TroubleInKernel,
    "TestTimesGiven": TimesGiven,
    "TestRecordedForward": RecordedForward,
}
