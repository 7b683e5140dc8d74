"""A card for the pack in this process: a machine that executes the shipped PTX on the CPU (`tests/ptx`)."""

import logging
import sys

CAPABILITIES = {"RTX 4090": (8, 9), "H100": (9, 0)}


def _name_the_pack():
    """Let the machine import the running pack by the name that the tests give it."""
    if "sparse_vdit" in sys.modules:
        return
    (own,) = (name.removesuffix(".kernels.attention") for name in sys.modules if name.endswith(".kernels.attention"))
    for name in [name for name in sys.modules if name == own or name.startswith(f"{own}.")]:
        sys.modules["sparse_vdit" + name.removeprefix(own)] = sys.modules[name]


class PluggedCard:
    """A MODEL whose runs find a card, while they last. The log says which shipped files ran."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",), "card": (list(CAPABILITIES),)}}

    def make(self, model, card):
        _name_the_pack()
        from .ptx.card import plugged

        model = model.clone()

        def outer_sample(executor, *args, **kwargs):
            with plugged(CAPABILITIES[card]) as found:
                result = executor(*args, **kwargs)
            files = sorted({run.file for run in found.runs})
            logging.info(f"PluggedCard: {len(found.runs)} launches of {', '.join(files)}")
            return result

        model.add_wrapper("outer_sample", outer_sample)
        return (model,)


NODES = {"TestPluggedCard": PluggedCard}
