"""The pack's kernels without the rest of the pack: what its latents are measured by."""

import importlib
import logging
import math
import sys


def pack_module(name):
    """A module of the pack, whatever folder the pack lies in."""
    known = "nodes.host.policies.plan"
    found = next(module for module in sys.modules if module.endswith(f".{known}"))
    return importlib.import_module(found.removesuffix(known) + name)


class DirectPlan:
    """A MODEL whose self-attention calls the torch backend by a plan, below a noise level; a line in the log counts."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        inputs = {"model": ("MODEL",), "plan": ("SPARSE_VDIT_PLAN",), "start_percent": ("FLOAT", {"default": 0.0})}
        return {"required": inputs}

    def make(self, model, plan, start_percent):
        model = model.clone()
        options = model.model_options["transformer_options"]
        override = _DirectCalls(plan, start_percent, options.get("optimized_attention_override"))
        options["optimized_attention_override"] = override
        model.add_callback("on_pre_run", override.begin)
        model.add_callback("on_cleanup", override.end)
        return (model,)


class _DirectCalls:
    def __init__(self, plan, start_percent, previous):
        self.plan, self.start_percent, self.previous = plan, start_percent, previous
        self.bound = pack_module("plans.plan.binding").BoundPlan(plan)
        self.sigma, self.calls = 0.0, 0

    def begin(self, patcher):
        self.sigma = float(patcher.get_model_object("model_sampling").percent_to_sigma(self.start_percent))
        self.calls = 0

    def end(self, patcher):
        logging.info("direct plan: %d calls", self.calls)

    def __call__(self, func, q, k, v, *args, **kwargs):
        options = kwargs["transformer_options"]
        grid, sigma = options["grid_sizes"], float(options["sigmas"].max())
        if q.shape != k.shape or q.shape[1] != math.prod(grid) or sigma > self.sigma:
            previous = func if self.previous is None else lambda *a, **kw: self.previous(func, *a, **kw)
            return previous(q, k, v, *args, **kwargs)
        self.calls += 1
        lists, table = self.bound.lists(pack_module("kernels.grid").TokenGrid(*grid), q.device)
        band = self.plan.band_at(sigma)
        split = (x.unflatten(-1, (self.plan.heads, self.plan.head_dim)) for x in (q, k, v))
        attention = pack_module("kernels.attention").sparse_attention
        return attention(*split, lists, table[band][options["block_index"]], "torch").flatten(2)
