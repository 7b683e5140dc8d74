"""ComfyUI's own split between GPUs without a GPU: `cpu` and `cpu:0` are two devices to it."""

import itertools

import comfy.model_management as management
import torch
from comfy.multigpu import create_multigpu_deepclones

from .others import _ModelNode

FIRST, SECOND = torch.device("cpu"), torch.device("cpu:0")


class TwoDevices(_ModelNode):
    """MultiGPU CFG Split on two devices."""

    def make(self, model):
        plain = management.get_all_torch_devices
        management.get_all_torch_devices = lambda exclude_current=False: [FIRST, SECOND]
        try:
            return (create_multigpu_deepclones(model, 2),)
        finally:
            management.get_all_torch_devices = plain


class FailingDevice(_ModelNode):
    """A MODEL whose second forward on the second device fails."""

    def change(self, model):
        calls = itertools.count()

        def apply_model(executor, *args, **kwargs):
            options = args[5] if len(args) > 5 else kwargs["transformer_options"]
            if options.get("multigpu_thread_device") == SECOND and next(calls) == 1:
                raise RuntimeError("trouble on the second device")
            return executor(*args, **kwargs)

        model.add_wrapper("apply_model", apply_model)


NODES = {"TestTwoDevices": TwoDevices, "TestFailingDevice": FailingDevice}
