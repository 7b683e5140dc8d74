"""Run with ComfyUI's Python: latency tables as Search Sparse Plan has them measured on a GPU, here on the CPU. Prints
JSON.

python measure_latencies.py COMFYUI
"""

import json
from pathlib import Path

import torch

from comfyui.bare import use_comfyui


def main() -> None:
    use_comfyui()
    import folder_paths

    folder_paths.set_user_directory(str(Path.cwd() / "user"))
    with torch.inference_mode():
        print(json.dumps(found()))


def found() -> dict:
    """Tables of one profile one after the other: on a device that is not measured, the first, the kept one, after the
    file was damaged, and with a kernel that fails; with what was measured, said and kept."""
    import load_pack  # noqa: F401
    from sparse_vdit.kernels.grid import TokenGrid
    from sparse_vdit.kernels.lists import pattern_density
    from sparse_vdit.kernels.patterns import Dense, Diagonal, Routed, Skip
    from sparse_vdit.nodes.host.library import latency_table
    from sparse_vdit.plans.profile.profile import ProfileHeader
    from sparse_vdit.plans.search import latency

    candidates, grid = (Dense(), Skip(), Diagonal(0), Diagonal(1), Routed(0.2)), (5, 9, 13)
    densities = tuple(pattern_density(pattern, TokenGrid(*grid), 32, 16) for pattern in candidates)
    header = ProfileHeader("wan", "", 2, 3, 24, grid, 32, 16, candidates, densities, ((1.0, 0.0),))
    said, launches = [], []
    truly = latency.run_call

    def counted(call: object, backend: str) -> torch.Tensor:
        launches.append(backend)
        return truly(call, backend)

    def without_memory(call: object, backend: str) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory left")

    latency.run_call = counted
    states = {"elsewhere": table(header, said)}
    latency_table.MEASURED_ON = ("cpu",)
    states |= {"first": table(header, said), "launches": len(launches)}
    states |= {"kept": table(header, said), "again": len(launches)}
    states["plan"] = searched()
    places = json.loads(latency_table.tables_file().read_text())["tables"]
    latency_table.tables_file().write_text("{broken")
    states |= {"damaged": table(header, said), "anew": len(launches)}
    latency_table.tables_file().unlink()
    latency.run_call = without_memory
    states["failed"] = table(header, said)
    return {**states, "places": places, "said": said, "left": latency_table.tables_file().exists()}


def searched() -> dict:
    """What a plan of the node tells, of a profile with heads of another size."""
    from types import SimpleNamespace

    from made_up_profiles import made_up, random_errors
    from sparse_vdit.nodes.search_plan import SearchPlan

    SearchPlan.hidden = SimpleNamespace(unique_id=None)
    (plan,) = SearchPlan.execute(made_up(random_errors(1)), {"rule": "preset", "preset": "fast"}).args
    return plan.provenance.parameters


def table(header: object, said: list[str]) -> dict | None:
    """The numbers of a profile's table."""
    from sparse_vdit.nodes.host.library.latency_table import latencies

    measured = latencies(header, said.append, said.append)
    return None if measured is None else measured.numbers()


if __name__ == "__main__":
    main()
