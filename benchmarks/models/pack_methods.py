"""The pack itself among the methods of `end_to_end.py`: with plans that ship, and with plans of a density."""

from __future__ import annotations

from collections.abc import Callable

from sparse_vdit.kernels.backends.triton_backend import INTERPRETED
from sparse_vdit.kernels.grid import TokenGrid
from sparse_vdit.kernels.lists import TileListBuilder
from sparse_vdit.plans.plan.plan import EVERY_SIGMA, Band, Plan, Provenance
from sparse_vdit.plans.plan.presets import DEFAULT_PRESET

from benchmarks.kernels.kernel_shapes import mix, pool
from benchmarks.models.whole_targets import Attach, MissingError, Target

SHIPPED = "shipped"


def ours(int8: bool = False) -> Attach:
    """The pack with a plan at every noise level, by one kernel, timed against nothing."""

    def attach(target: Target) -> None:
        from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner
        from sparse_vdit.nodes.host.policies.plan import PlanPolicy
        from sparse_vdit.nodes.host.session.call import EXACT, INT8

        class OneKernel(KernelTuner):
            """Always the same, and no times."""

            def begin_timing(self, place: object, lane: str) -> bool:
                return False

            def verdict(self, place: object, density: float, kernels: tuple[str, ...], backend: str) -> str:
                return INT8 if int8 else EXACT

            def summary(self) -> str:
                return ""

            def count(self, place: object, density: float, backend: str) -> None:
                """Nothing to compare."""

        backend = "triton" if target.device.type == "cuda" or INTERPRETED else "torch"
        if int8 and backend == "torch":
            raise MissingError("needs a GPU, or TRITON_INTERPRET=1")

        def select(sampling: object) -> object:
            policy = PlanPolicy(plan_of(target), EVERY_SIGMA, 0.0, backend)
            policy.tuner = OneKernel()
            if target.prepared:
                policy.prepare(TokenGrid(*target.layout), 1, target.device)
            return policy

        install_pack(target, select)

    return attach


def ours_as_users_do(target: Target) -> None:
    """The pack as its patch node has it: the tuner decides about the kernel, and whether it is faster at all."""
    from sparse_vdit.nodes.host.policies.kernel_tuner import KernelTuner
    from sparse_vdit.nodes.host.policies.plan import PlanPolicy

    install_pack(target, lambda sampling: PlanPolicy(plan_of(target), EVERY_SIGMA, 0.0, "auto", KernelTuner()))


def install_pack(target: Target, select: Callable[[object], object]) -> None:
    """The pack's own wrappers, with a policy for each run."""
    from sparse_vdit.nodes.host.hooks.install import install

    def finish(run: object) -> None:  # no method of the list: compiled code would be guarded by whether it is empty
        target.runs.append(run)

    install(target.patcher, select, finish)


def plan_of(target: Target) -> Plan:
    """The plan that a target asks for."""
    if target.plan != SHIPPED:
        return synthetic_plan(target.family.name, target.shape, target.layout, float(target.plan))
    from sparse_vdit.nodes.host.hooks.sampling import Sampling
    from sparse_vdit.nodes.host.library.shipped import shipped_plan, variant

    likest = variant(Sampling(target.patcher, target.patcher.model.diffusion_model, target.family))
    plan = likest and shipped_plan(target.family.name, target.shape, likest.file, DEFAULT_PRESET)
    if plan is None or plan.grade == "calibrate":
        raise MissingError(f"no {DEFAULT_PRESET} plan ships for this model")
    return plan


def dense_part(plan: Plan, patcher: object, steps: int) -> float:
    """Part of a generation's steps at whose noise levels a plan says nothing: they stay dense, warm-up or not."""
    sampling = patcher.get_model_object("model_sampling")
    # for the first step ComfyUI gives a number above all noise levels
    levels = (min(sampling.percent_to_sigma(step / steps), float(sampling.sigma_max)) for step in range(steps))
    return sum(plan.band_at(level) is None for level in levels) / steps


def synthetic_plan(
    family: str, shape: tuple[int, int, int], layout: tuple[int, int, int, int, int], density: float
) -> Plan:
    """A plan of about a density on a token layout: every layer has the same mix of patterns, on other heads."""
    layers, heads, head_dim = shape
    builder, patterns = TileListBuilder(TokenGrid(*layout)), pool()
    for pattern in patterns:
        builder.add(pattern)
    densities = dict(enumerate(builder.build().densities))
    row = mix(densities, heads, density)
    rows = tuple(row[layer % heads :] + row[: layer % heads] for layer in range(layers))
    made = Provenance(rule="synthetic", parameters={"density": density}, notes="for measuring speed alone")
    return Plan(
        family, layers, heads, head_dim, layout[:3], patterns, (Band(EVERY_SIGMA, 0.0, rows),), "calibrate", made
    )
