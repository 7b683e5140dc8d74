"""Sparse-vDiT for ComfyUI. The door: registers the nodes and the web files, nothing else."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> object:
    """What ComfyUI calls to get the nodes. Imported here, so that kernels and plans also work without ComfyUI."""
    from .nodes import extension

    return extension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
