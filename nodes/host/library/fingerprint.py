"""Identifies a model by a few numbers of small tensors that its quantised copies keep, never by its file's name.

Copies of a checkpoint differ by how its numbers are rounded, so fingerprints are compared, not hashed: two are of one
model when every number is the same up to the rounding of both. LoRAs do not count, as patched weights are read as they
were before.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models import Family

COUNT = 40  # numbers: as text they have to fit into a plan's parameter
_STORED = torch.float16
_TENSOR_STEP, _PLACE_STEP = 0.6180339887, 0.7548776662  # multiples of them, modulo 1, are spread evenly


@dataclass(frozen=True)
class Fingerprint:
    """Numbers of a model.

    Attributes:
        dtype: the coarsest that they are stored in, as torch calls it.
        numbers: COUNT of them, to the precision of float16.
    """

    dtype: str
    numbers: tuple[float, ...]

    def __str__(self) -> str:
        """As a plan or a profile holds it; `read_fingerprint` reads it."""
        return f"{self.dtype} {struct.pack(f'>{COUNT}e', *self.numbers).hex()}"

    @property
    def digest(self) -> str:
        """Eight digits for file names, the same for equal fingerprints; copies of one model may have others."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:8]

    def distance(self, other: Fingerprint) -> float:
        """At most 1 where the two may be of one model: the largest difference of two numbers, relative to what the
        rounding of both can have made."""
        return max(
            abs(ours - theirs) / (_rounding(self.dtype, ours) + _rounding(other.dtype, theirs))
            for ours, theirs in zip(self.numbers, other.numbers, strict=True)
        )


def read_fingerprint(text: object) -> Fingerprint | None:
    """Fingerprint from its text; None of anything else."""
    found = re.fullmatch(rf"(b?float\w{{1,20}}) ([0-9a-f]{{{4 * COUNT}}})", text) if isinstance(text, str) else None
    if found is None or not _has_rounding(getattr(torch, found[1], None)):
        return None
    numbers = struct.unpack(f">{COUNT}e", bytes.fromhex(found[2]))
    return Fingerprint(found[1], numbers) if all(abs(number) <= 65504 for number in numbers) else None


def fingerprint(patcher: object, model: nn.Module, family: Family) -> Fingerprint | None:
    """Fingerprint of a MODEL's diffusion model; None where it has no such tensors, or not as plain numbers.

    Reads single numbers where the tensors lie, so that nothing is moved. What LoRAs have changed in place is read from
    ComfyUI's backups.
    """
    tensors = {name: value for name, value in model.named_parameters() if re.fullmatch(family.unquantized, name)}
    names, numbers, coarsest = list(tensors), [], _STORED
    if not names:
        return None
    for sample in range(COUNT):
        name = names[int(sample * _TENSOR_STEP * len(names)) % len(names)]
        tensor = _before_patches(patcher, f"diffusion_model.{name}", tensors[name])
        plain = tensor.is_floating_point() and _has_rounding(tensor.dtype)
        if not plain or tensor.is_meta or not tensor.numel():
            return None
        flat = tensor.detach().reshape(-1)
        number = float(flat[int(sample * _PLACE_STEP * len(flat)) % len(flat)].to(torch.float32))
        numbers.append(float(torch.tensor(number).clamp(-65504, 65504).nan_to_num().to(_STORED)))
        coarsest = max(coarsest, tensor.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return Fingerprint(str(coarsest).removeprefix("torch."), tuple(numbers))


def _before_patches(patcher: object, key: str, tensor: Tensor) -> Tensor:
    """A tensor as its checkpoint has it, where LoRAs or hooks have changed it in place."""
    kept = getattr(patcher, "backup", {}).get(key)
    hooked = (getattr(patcher, "hook_backup", None) or {}).get(key)
    if kept is not None:
        return kept.weight
    return tensor if hooked is None else hooked[0]


def _has_rounding(dtype: object) -> bool:
    """Whether numbers of a dtype can be compared: torch says how it rounds, as it does not of packed ones."""
    try:
        return torch.finfo(dtype).eps > 0
    except (TypeError, NotImplementedError):
        return False


def _rounding(dtype: str, number: float) -> float:
    """How far off a number may be that went through a dtype, and through float16 for keeping."""
    return sum(
        abs(number) * info.eps + info.smallest_normal * info.eps
        for info in (torch.finfo(getattr(torch, dtype)), torch.finfo(_STORED))
    )
