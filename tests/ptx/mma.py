"""mma.sync: products of small matrices whose elements lie in the registers of a warp."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .errors import UnsupportedPtxError
from .numbers import F2, F4, I4, U4, widen
from .operands import Mask, Slots, Step
from .parsing import Instruction

if TYPE_CHECKING:
    from .cta import Cta

FORMS = {  # shape, types of D, A, B and C -> type of the elements, of the sums
    ("m16n8k16", ("f32", "bf16", "bf16", "f32")): ("bf16", "f32"),
    ("m16n8k16", ("f32", "f16", "f16", "f32")): ("f16", "f32"),
    ("m16n8k16", ("f16", "f16", "f16", "f16")): ("f16", "f16"),
    ("m16n8k32", ("s32", "s8", "s8", "s32")): ("s8", "s32"),
}
KEPT_FRAGMENTS = 512


def translate_mma(slots: Slots, instruction: Instruction) -> Step:
    """D = A B + C for each warp: 16 x k times k x 8."""
    _, _, _, shape, left_order, right_order, *kinds = instruction.parts
    form = shape, tuple(kind for kind in kinds if kind != "satfinite")
    if form not in FORMS or (left_order, right_order) != ("row", "col"):
        raise UnsupportedPtxError("mma of another shape or of other types")
    kind, sums = FORMS[form]
    target, left, right, added = (slots.vector(operand, "b32") for operand in instruction.operands)
    add = {"f32": _added_f32, "f16": _added_f16, "s32": _added_s32}[sums]

    def step(cta: Cta, mask: Mask) -> None:
        cta.need_all(mask)
        out = left_matrix(cta, kind, left) @ _right_matrix(cta, kind, right)
        out = out.reshape(-1, 2, 8, 4, 2)  # warps, halves of the rows, rows, columns by twos
        for place, value in zip(target, add(out, [cta.registers[one] for one in added]), strict=True):
            cta.registers[place] = value

    return step


def left_matrix(cta: Cta, kind: str, places: tuple[int, ...]) -> np.ndarray:
    """(warps, 16, k) fp32 of A. Kept, as the same registers are multiplied many times."""
    registers = [cta.registers[place] for place in places]
    key = (kind, *map(id, registers))
    if key not in cta.fragments:
        values = widen(np.stack(registers), kind)
        values = values.reshape(2, 2, cta.threads // 32, 8, 4, -1)  # halves of k, of the rows, warps, rows, k by fours
        matrix = np.ascontiguousarray(values.transpose(2, 1, 3, 0, 4, 5)).reshape(cta.threads // 32, 16, -1)
        if len(cta.fragments) >= KEPT_FRAGMENTS:
            cta.fragments.clear()
        cta.fragments[key] = matrix, registers  # the registers too, so that no other array gets their id
    return cta.fragments[key][0]


def _right_matrix(cta: Cta, kind: str, places: tuple[int, ...]) -> np.ndarray:
    """(warps, k, 8) fp32 of B."""
    values = widen(np.stack([cta.registers[place] for place in places]), kind)
    values = values.reshape(2, cta.threads // 32, 8, 4, -1)  # halves of k, warps, columns, k by fours
    return values.transpose(1, 0, 3, 4, 2).reshape(cta.threads // 32, -1, 8)


def _added_f32(out: np.ndarray, added: list[np.ndarray]) -> list[np.ndarray]:
    return [(value + old.view(F4)).view(U4) for value, old in zip(_registers(out), added, strict=True)]


def _added_s32(out: np.ndarray, added: list[np.ndarray]) -> list[np.ndarray]:
    """fp32 is exact here: a product of 32 pairs of 8 bits stays below 2 ** 24."""
    return [(value.astype(I4) + old.view(I4)).view(U4) for value, old in zip(_registers(out), added, strict=True)]


def _registers(out: np.ndarray) -> np.ndarray:
    """(4, threads): register 2 i + j holds column j of half i of the rows."""
    return np.ascontiguousarray(out.transpose(1, 4, 0, 2, 3)).reshape(4, -1)


def _added_f16(out: np.ndarray, added: list[np.ndarray]) -> list[np.ndarray]:
    halves = np.ascontiguousarray(out.transpose(1, 0, 2, 3, 4)).reshape(2, -1)
    return [(value + old.view(F2).astype(F4)).astype(F2).view(U4) for value, old in zip(halves, added, strict=True)]


TRANSLATORS: dict[str, Callable[[Slots, Instruction], Step]] = {"mma": translate_mma}
