"""All nodes of the pack, as ComfyUI asks for them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .compare_videos import CompareVideos
from .host.installed import has_raylight
from .host.library import folders
from .host.ui import viewer
from .load_plan import LoadPlan
from .patch_model import PatchModel
from .patch_raylight import PatchRaylight
from .preview_plan import PreviewPlan
from .profile_heads import ProfileHeads
from .save_plan import SavePlan
from .search_plan import SearchPlan

NODES = (PatchModel, LoadPlan, SavePlan, ProfileHeads, SearchPlan, PreviewPlan, CompareVideos)


class SparseVDiTExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def on_load(self) -> None:
        """Registers the folder of the user's plans, and what the plan viewer asks for."""
        folders.register()
        viewer.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack; that for raylight only where it is installed."""
        return [*NODES, PatchRaylight] if has_raylight() else list(NODES)
