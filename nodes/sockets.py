"""Types of the pack's own sockets, and what all its nodes share."""

from __future__ import annotations

from comfy_api.latest import io

PlanType = io.Custom("SPARSE_VDIT_PLAN")
ProfileType = io.Custom("SPARSE_VDIT_PROFILE")
CATEGORY = "model/patch/Sparse-vDiT"
