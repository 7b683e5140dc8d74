"""Sparse-vDiT Patch (raylight): a plan for the workers of raylight, which split a video between GPUs."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io

from ..plans.plan.plan import Plan
from ..plans.plan.text import plan_to_text
from .host.installed import FOLDER
from .sockets import CATEGORY, PlanType, given, noise_inputs

RayActors = io.Custom("RAY_ACTORS")


class PatchRaylight(io.ComfyNode):
    """Patches the model of each worker, as raylight's own patch nodes do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="SparseVDiTPatchRaylight",
            display_name="Sparse-vDiT Patch (raylight)",
            category=CATEGORY,
            description="Runs a plan on all GPUs that raylight splits a Wan video between. After each run, every "
            "worker says in the log what ran sparse.",
            search_aliases=["raylight", "multi gpu", "several gpus", "ray sparse attention"],
            inputs=[
                RayActors.Input(
                    "ray_actors",
                    tooltip="From raylight's model loader, or from another of its patch nodes. Its ulysses_degree or "
                    "ring_degree has to be 2 or more.",
                ),
                PlanType.Input(
                    "plan",
                    tooltip="Which pattern each head runs, from Load Sparse Plan or Search Sparse Plan. Nothing is "
                    "measured here, so it has to be a measured plan.",
                ),
                *noise_inputs(),
            ],
            outputs=[RayActors.Output(display_name="ray_actors", tooltip="For raylight's sampler.")],
        )

    @classmethod
    def execute(cls, ray_actors: dict, plan: Plan | None, start_percent: float, end_percent: float) -> io.NodeOutput:
        """The same workers, with the plan.

        Raises:
            ValueError: there is no plan.
            RuntimeError: a worker could not take it.
        """
        import ray

        plan = given(plan)
        settings = str(FOLDER), plan_to_text(plan), plan.label, start_percent, end_percent
        sent = worker_code()
        try:
            ray.get([worker.model_function_runner.remote(sent, *settings) for worker in ray_actors["workers"]])
        except Exception as error:
            raise RuntimeError(f"a worker of raylight could not take the plan, its log says more: {error}") from error
        return io.NodeOutput(ray_actors)


def worker_code() -> Callable:
    """What each worker runs with its MODEL. Ray sends a function within a function as code, and one of a module as a
    name, which a worker would look for in vain. So it uses nothing of this module."""

    def patch(model: object, folder: str, *settings: object) -> object:
        import importlib.util
        import sys

        name = "sparse_vdit"
        if name not in sys.modules:
            file = f"{folder}/__init__.py"
            spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[folder])
            sys.modules[name] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(sys.modules[name])
            except BaseException:
                del sys.modules[name]
                raise
        return importlib.import_module(f"{name}.nodes.host.raylight").patched(model, *settings)

    return patch
