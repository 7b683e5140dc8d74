"""Extra steps of a profiling run that say how much the video suffers from errors of attention.

At the last step of each sigma band the same latents are predicted again: once as they were, then once for each group of
layers with the patterns there that a search would choose from what was measured so far, and dense attention elsewhere.
It is the guided prediction that is compared, as guidance enlarges what differs between the prompts. Nothing of it
reaches the video.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....plans.search.sensitivity import layer_groups
from .current import current_run
from .failures import MOST_CHARACTERS, passes_through
from .injection import begin_injection
from .install import KEY
from .plan_engine import SIGMA_SLACK
from .run import Run

FUNCTIONS = (
    "model_function_wrapper", "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)  # fmt: skip
"""What nodes put into model_options: some of it, such as the momentum of APG, remembers the step before."""

INNER = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)


class ExtraSteps:
    """Makes the extra steps of one run, as a wrapper around the guider's `predict_noise`.

    Args:
        steps: how many at most.
        sigmas: noise levels of the run's own steps.
    """

    def __init__(self, steps: int, sigmas: Sequence[float]):
        self.steps, self.sigmas = steps, sigmas
        self.made, self.seconds, self.refused = 0, 0.0, ""
        self._bands: set[int] = set()

    def install(self, patcher: object) -> None:
        """Add the wrapper to a MODEL that the caller has cloned."""
        patcher.remove_wrappers_with_key(WrappersMP.PREDICT_NOISE, KEY)
        patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self._predict_noise)

    def told(self) -> str:
        """What was made and what it took, in words; empty where none was wanted."""
        if not self.steps:
            return ""
        made = f"sensitivity from {self.made} extra steps in {self.seconds:.1f} s" if self.made else ""
        why = f"sensitivity not measured: {self.refused}" if self.refused else ""
        return "; ".join(filter(None, (made, why)))

    def _predict_noise(self, executor: Callable, x: Tensor, t: Tensor, *args: object, **kwargs: object) -> Tensor:
        out = executor(x, t, *args, **kwargs)
        run = current_run()
        band = self._due(run, float(t.flatten()[0]))
        if band is not None:
            self._bands.add(band)
            begun = time.perf_counter()
            try:
                options = args[0] if args else kwargs.get("model_options", {})
                self._measure(run, band, lambda: executor(x, t, *args, **kwargs), x, options)
            except Exception as error:  # it costs the weights, and never the video
                if passes_through(error):
                    raise
                self.refused = f"{type(error).__name__}: {error}"[:MOST_CHARACTERS]
            finally:
                run.engine.injection = None
            self.seconds += time.perf_counter() - begun
        return out

    def _due(self, run: Run | None, sigma: float) -> int | None:
        """Band whose last step has this noise level, once; None where nothing is to be measured."""
        if run is None or run.stopped or self.refused or not self.steps:
            return None
        profiler = run.engine.profiler
        band = profiler.band_at(sigma)
        if band is None or band in self._bands:
            return None
        last = min((level for level in self.sigmas if profiler.band_at(level) == band), default=0.0)
        return band if sigma <= last * (1 + SIGMA_SLACK) else None

    def _measure(self, run: Run, band: int, predict: Callable[[], Tensor], x: Tensor, options: Mapping) -> None:
        """The extra steps of a band, on the latents of the one that was just made."""
        profiler = run.engine.profiler
        groups = self.steps // len(profiler.bands) - 1
        others = others_at_work(options)
        if others or groups < 1:
            few = f"{self.steps} extra steps are too few for {len(profiler.bands)} bands, give two for each"
            self.refused = f"{others} could remember the extra steps" if others else few
            return
        injection = run.engine.injection = begin_injection(profiler, band, run.engine.gram)

        def step(layers: range) -> Tensor:
            injection.begin(layers)
            with run.ledger.aside():
                denoised = predict()
            self.made += 1
            return denoised.float()

        exact = step(range(0))
        power = (x.float() - exact).square().sum().item()  # of what is taken for noise
        for layers in layer_groups(run.engine.shape[0], groups):
            error = (step(layers) - exact).square().sum().item()
            profiler.inject(band, layers, error / max(power, 1e-30), injection.error)


def others_at_work(options: Mapping) -> str:
    """Names of what else takes part in a step by the guider's model_options; empty where nothing does."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    keys = {str(key) for kind in INNER for key in wrappers.get(kind, {})} - {KEY}
    return ", ".join(sorted(keys | {name for name in FUNCTIONS if options.get(name)}))
