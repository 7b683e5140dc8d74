"""Runs of ComfyUI's own models without a MODEL around them: what the pack's wrappers do around one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def forward_of(run: object, sigma: float, chained: Callable | None = None, **options: object) -> Iterator[dict]:
    """Around one forward of a run; gives the transformer_options to call the model with."""
    from sparse_vdit.nodes.host.hooks import compile_op
    from sparse_vdit.nodes.host.hooks.install import _diffusion_model
    from sparse_vdit.nodes.host.hooks.override import attention_override
    from sparse_vdit.nodes.host.session.run import as_current

    given = {
        "optimized_attention_override": attention_override,
        compile_op.CHAINED: chained,
        "wrappers": {"diffusion_model": {"sparse_vdit": [_diffusion_model]}},
        **options,
    }
    run.options = dict(given)
    with as_current(run):
        compile_op.set_sampling(True)
        try:
            run.begin_step(sigma)
            run.begin_forward(torch.device("cpu"), sigma)
            compile_op.forget_forward()
            yield given
        finally:
            compile_op.set_sampling(False)


class FixedClock:
    """A clock that shows these milliseconds, by what is timed."""

    def __init__(self, **milliseconds: float):
        self.milliseconds = milliseconds

    def reserve(self, device: torch.device, calls: int) -> None:
        """Nothing to do."""

    def ready(self, device: torch.device) -> bool:
        """Always."""
        return True

    def start(self, device: torch.device, what: str, done: Callable[[float], None]) -> Callable[[], None]:
        """Begin to time a call."""
        return lambda: done(self.milliseconds[what])

    def collect(self, wait: bool = False) -> None:
        """Nothing is late."""
