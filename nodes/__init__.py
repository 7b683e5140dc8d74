"""The nodes that users drag, one per file."""

from __future__ import annotations

import logging

LOG = logging.getLogger("sparse_vdit")


def extension() -> object:
    """What ComfyUI gets: all nodes, or none where this ComfyUI is too old or another copy of the pack serves it.

    Imports the nodes when it is called: an old ComfyUI could not, and nodes/host works without ComfyUI for the most
    part.
    """
    from .host.installed import claim_server, too_old

    why = too_old() or claim_server()
    if why is not None:
        from comfy_api.latest import ComfyExtension

        class Nothing(ComfyExtension):
            async def get_node_list(self) -> list:
                return []

        LOG.warning("Sparse-vDiT %s", why)
        return Nothing()
    from .extension import SparseVDiTExtension

    return SparseVDiTExtension()
