"""Stand-ins for raylight's nodes, with one worker in ComfyUI's own process, and for what it uses of Ray."""

import sys
from types import ModuleType, SimpleNamespace

import nodes

sys.modules["ray"] = ModuleType("ray")
sys.modules["ray"].get = lambda futures: [future() for future in futures]


class Worker:
    """Holds a MODEL, as a worker of raylight does."""

    def __init__(self, model, broken):
        self.model, self.broken = model, broken
        self.model_function_runner = SimpleNamespace(remote=self._run)

    def _run(self, function, *args):
        def run():
            if self.broken:
                raise RuntimeError("no such worker")
            self.model = function(self.model, *args)

        return run


class RayActors:
    """Raylight's loader."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("RAY_ACTORS",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"model": ("MODEL",)}, "optional": {"broken": ("BOOLEAN", {"default": False})}}

    def make(self, model, broken=False):
        return ({"workers": [Worker(model, broken)]},)


class RaySampler:
    """Raylight's sampler."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "make", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        conditioning = dict.fromkeys(("positive", "negative"), ("CONDITIONING",))
        return {"required": {"ray_actors": ("RAY_ACTORS",), **conditioning, "latent": ("LATENT",)}}

    def make(self, ray_actors, positive, negative, latent):
        (worker,) = ray_actors["workers"]
        return nodes.common_ksampler(worker.model, 5, 2, 3.0, "euler", "simple", positive, negative, latent)


NODES = {"TestRayActors": RayActors, "TestRaySampler": RaySampler}
