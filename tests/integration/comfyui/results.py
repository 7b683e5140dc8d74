"""What a workflow gave: its latents, and what the pack said in the log."""

from __future__ import annotations

import re

import torch
from safetensors.torch import load_file

from .prompts import save_latent
from .server import Server

PLANS = "models/sparse_vdit_plans"
"""Folder of the user's plans under the server's base."""


def latents(server: Server, prompt: dict, sampler: str = "sampler") -> torch.Tensor:
    """Run a workflow and return the latent that its node `sampler` gives."""
    outputs = server.run({**prompt, "save": save_latent((sampler, 0), "latents/test")})
    saved = outputs["save"]["latents"][0]
    return load_file(server.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"]


def relative_difference(value: torch.Tensor, truth: torch.Tensor) -> float:
    """||value - truth|| / ||truth||."""
    return float((value.double() - truth.double()).norm() / truth.double().norm())


def new_log(server: Server, before: int) -> str:
    """What the server has said since `before` characters."""
    return server.log_text()[before:]


def report(server: Server, before: int) -> str:
    """The pack's last report line since `before` characters of the log."""
    lines = [line for line in new_log(server, before).splitlines() if "Sparse-vDiT:" in line]
    assert lines, "the pack said nothing"
    return lines[-1]


def counts(line: str) -> tuple[int, int]:
    """(sparse, dense) calls of a report line."""
    found = re.search(r"(\d+) sparse / (\d+) dense", line)
    assert found, line
    return int(found[1]), int(found[2])
