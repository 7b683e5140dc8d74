"""Instructions that compute registers from registers: one table of numpy functions by opcode."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from . import numbers
from .errors import UnsupportedPtxError
from .numbers import DTYPES, F2, F4, I4, I8, U1, U2, U4, U8
from .operands import Mask, Slots, Step, constant_of, merged
from .parsing import Instruction, Operand, Vector

if TYPE_CHECKING:
    from .cta import Cta

Rule = tuple[str, tuple[str, ...], Callable[..., np.ndarray]]  # type of the result, of the sources, the function
COMPARISONS = {
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
    "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge,
}  # fmt: skip


def _cast(dtype: type) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: x.astype(dtype)


def _product(dtype: type, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(dtype) * b.astype(dtype)


def _shift(function: Callable, a: np.ndarray, by: np.ndarray) -> np.ndarray:
    """PTX clamps shifts at the width: what is beyond leaves zeros, or signs."""
    bits = 8 * a.itemsize
    inside = function(a, np.minimum(by, U4(bits - 1)).astype(a.dtype))
    if function is np.right_shift and a.dtype.kind == "i":
        return inside
    return np.where(by < bits, inside, a.dtype.type(0))


def _select(a: np.ndarray, b: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.where(which, a, b)


def _pairs(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A function of fp32 on registers that hold two."""
    return lambda *values: function(*(x.view(F4) for x in values)).view(U8)


def _integers() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}
    for bits in (16, 32, 64):
        raw = f"u{bits}"
        for kind in (f"s{bits}", f"u{bits}"):
            rules |= {
                f"add.{kind}": (raw, (raw, raw), np.add),
                f"sub.{kind}": (raw, (raw, raw), np.subtract),
                f"mul.lo.{kind}": (raw, (raw, raw), np.multiply),
                f"mad.lo.{kind}": (raw, (raw, raw, raw), lambda a, b, c: a * b + c),
                f"min.{kind}": (kind, (kind, kind), np.minimum),
                f"max.{kind}": (kind, (kind, kind), np.maximum),
                f"div.{kind}": (kind, (kind, kind), numbers.divide),
                f"rem.{kind}": (kind, (kind, kind), numbers.remainder),
                f"shr.{kind}": (kind, (kind, "u32"), partial(_shift, np.right_shift)),
            }
        rules |= {
            f"neg.s{bits}": (raw, (raw,), np.negative),
            f"abs.s{bits}": (f"s{bits}", (f"s{bits}",), np.abs),
            f"shl.b{bits}": (raw, (raw, "u32"), partial(_shift, np.left_shift)),
            f"and.b{bits}": (raw, (raw, raw), np.bitwise_and),
            f"or.b{bits}": (raw, (raw, raw), np.bitwise_or),
            f"xor.b{bits}": (raw, (raw, raw), np.bitwise_xor),
            f"not.b{bits}": (raw, (raw,), np.invert),
            f"selp.b{bits}": (raw, (raw, raw, "pred"), _select),
        }
    rules["popc.b32"] = ("u32", ("u32",), lambda x: np.bitwise_count(x).astype(U4))
    del rules["div.u64"], rules["rem.u64"]  # `divide` works in signed 64 bits
    for kind, wide in (("s16", "s32"), ("u16", "u32"), ("s32", "s64"), ("u32", "u64")):
        product = partial(_product, DTYPES[wide])
        rules[f"mul.wide.{kind}"] = (wide, (kind, kind), product)
        rules[f"mad.wide.{kind}"] = (wide, (kind, kind, wide), lambda a, b, c, product=product: product(a, b) + c)
    rules["mul.hi.s32"] = ("s32", ("s32", "s32"), lambda a, b: (_product(I8, a, b) >> I8(32)).astype(I4))
    rules["mul.hi.u32"] = ("u32", ("u32", "u32"), lambda a, b: (_product(U8, a, b) >> U8(32)).astype(U4))
    return rules


def _floats() -> dict[str, Rule]:
    two = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.fmax, "min": np.fmin,
        "max.NaN": np.maximum, "min.NaN": np.minimum,
        "div.full": np.divide, "div.rn": np.divide,
    }  # fmt: skip
    rules: dict[str, Rule] = {f"{name}.f32": ("f32", ("f32", "f32"), function) for name, function in two.items()}
    rules |= {f"{name}.rn.f32": rules[f"{name}.f32"] for name in ("add", "sub", "mul")}
    rules |= {
        "neg.f32": ("f32", ("f32",), np.negative),
        "abs.f32": ("f32", ("f32",), np.abs),
        "fma.rn.f32": ("f32", ("f32",) * 3, numbers.fma),
        "selp.f32": ("f32", ("f32", "f32", "pred"), _select),
        "ex2.approx.ftz.f32": ("f32", ("f32",), numbers.exp2),
        "rcp.approx.ftz.f32": ("f32", ("f32",), lambda x: numbers.flush(F4(1) / numbers.flush(x))),
        "rcp.rn.f32": ("f32", ("f32",), lambda x: F4(1) / x),
    }
    of_pairs = (("add", np.add, 2), ("sub", np.subtract, 2), ("mul", np.multiply, 2), ("fma", numbers.fma, 3))
    for name, function, count in of_pairs:
        for rounding in ("", ".rn"):
            rules[f"{name}{rounding}.f32x2"] = ("u64", ("u64",) * count, _pairs(function))
    for name, function in (("add", np.add), ("mul", np.multiply), ("max", np.fmax), ("min", np.fmin)):
        rules[f"{name}.f16"] = rules[f"{name}.rn.f16"] = ("f16", ("f16", "f16"), function)
    return rules


def _conversions() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}
    whole = [f"{sign}{bits}" for sign in "su" for bits in (8, 16, 32, 64)]
    for to in whole:
        for source in whole:  # registers of 16 bits hold the types of 8
            wide = {"s8": "s16", "u8": "u16"}
            cut, own = DTYPES[source], DTYPES[wide.get(to, to)]
            rules[f"cvt.{to}.{source}"] = (
                wide.get(to, to),
                (wide.get(source, source),),
                lambda x, cut=cut, to=to, own=own: x.astype(cut).astype(DTYPES[to]).astype(own),
            )
    for kind in ("s16", "u16", "s32", "u32"):
        rules[f"cvt.rn.f32.{kind}"] = ("f32", (kind,), _cast(F4))
        for rounding in ("rzi", "rni", "rmi", "rpi"):
            function = partial(numbers.to_integer, dtype=DTYPES[kind], rounding=rounding)
            rules[f"cvt.{rounding}.{kind}.f32"] = (kind, ("f32",), function)
            rules[f"cvt.{rounding}.ftz.{kind}.f32"] = (
                kind,
                ("f32",),
                lambda x, function=function: function(numbers.flush(x)),
            )
    for rounding, function in (("rmi", np.floor), ("rpi", np.ceil), ("rni", np.rint), ("rzi", np.trunc)):
        rules[f"cvt.{rounding}.f32.f32"] = ("f32", ("f32",), function)
        rules[f"cvt.{rounding}.ftz.f32.f32"] = (
            "f32",
            ("f32",),
            lambda x, function=function: function(numbers.flush(x)),
        )
    rules |= {
        "cvt.f32.bf16": ("u32", ("u16",), lambda x: x.astype(U4) << U4(16)),
        "cvt.f32.f16": ("f32", ("f16",), _cast(F4)),
        "cvt.rn.bf16.f32": ("u16", ("f32",), lambda x: numbers.to_bf16(x).astype(U2)),
        "cvt.rn.f16.f32": ("f16", ("f32",), _cast(F2)),
        "cvt.rn.bf16x2.f32": ("u32", ("f32", "f32"), numbers.two_bf16),
        "cvt.rn.f16x2.f32": ("u32", ("f32", "f32"), numbers.two_f16),
    }
    return rules


def _predicates() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        "and.pred": ("pred", ("pred", "pred"), np.logical_and),
        "or.pred": ("pred", ("pred", "pred"), np.logical_or),
        "xor.pred": ("pred", ("pred", "pred"), np.logical_xor),
        "not.pred": ("pred", ("pred",), np.logical_not),
    }
    kinds = [f"{sign}{bits}" for sign in "sub" for bits in (16, 32, 64)]
    for name, function in COMPARISONS.items():
        rules |= {f"setp.{name}.{kind}": ("pred", (kind, kind), function) for kind in [*kinds, "f32", "f16"]}
    return rules


RULES = _integers() | _floats() | _conversions() | _predicates()


def translate(slots: Slots, instruction: Instruction) -> Step:
    """A step for an instruction in RULES."""
    result, kinds, function = RULES[instruction.op]
    if len(instruction.operands) != len(kinds) + 1:
        raise UnsupportedPtxError("another number of operands")
    target, *sources = instruction.operands
    places = [slots.source(source, kind) for source, kind in zip(sources, kinds, strict=True)]
    return assign(slots.target(target, result), with_views(function, kinds, result), places)


def with_views(function: Callable[..., np.ndarray], kinds: tuple[str, ...], result: str) -> Callable[..., np.ndarray]:
    """A function of bits, given one of numbers."""
    plain = [kind == "pred" or DTYPES[kind] in (U2, U4, U8) for kind in (*kinds, result)]
    if all(plain):
        return function
    own, out = [DTYPES[kind] for kind in kinds], DTYPES["pred"] if result == "pred" else f"u{numbers.size_of(result)}"
    if len(own) == 1:
        (first,) = own
        return lambda a: function(a.view(first)).view(out)
    if len(own) == 2:
        first, second = own
        return lambda a, b: function(a.view(first), b.view(second)).view(out)
    first, second, third = own
    return lambda a, b, c: function(a.view(first), b.view(second), c.view(third)).view(out)


def assign(target: int, function: Callable[..., np.ndarray], places: list[int]) -> Step:
    """A step that sets a register to a function of registers."""

    def one(cta: Cta, mask: Mask) -> None:
        registers = cta.registers
        value = function(registers[a])
        registers[target] = value if mask is None else merged(mask, value, registers[target])

    def two(cta: Cta, mask: Mask) -> None:
        registers = cta.registers
        value = function(registers[a], registers[b])
        registers[target] = value if mask is None else merged(mask, value, registers[target])

    def three(cta: Cta, mask: Mask) -> None:
        registers = cta.registers
        value = function(registers[a], registers[b], registers[c])
        registers[target] = value if mask is None else merged(mask, value, registers[target])

    a, b, c = (*places, 0, 0)[:3]
    return (one, two, three)[len(places) - 1]


def translate_mov(slots: Slots, instruction: Instruction) -> Step:
    """mov, also between a register and two halves."""
    target, source = instruction.operands
    kind = instruction.parts[1]
    if isinstance(source, Vector):
        return _join(slots, target, source, kind)
    if isinstance(target, Vector):
        return _separate(slots, target, source, kind)
    return assign(slots.target(target, kind), lambda x: x, [slots.source(source, kind)])


def _halves(kind: str, vector: Vector) -> tuple[str, type, int]:
    """Type of a half, dtype of the whole, bits of a half."""
    if len(vector.items) != 2 or kind not in ("b32", "b64"):
        raise UnsupportedPtxError("a vector of other than two halves")
    return ("u16", U4, 16) if kind == "b32" else ("u32", U8, 32)


def _join(slots: Slots, target: Operand, source: Vector, kind: str) -> Step:
    half, whole, bits = _halves(kind, source)
    places = [slots.source(item, half) for item in source.items]
    shift = whole(bits)
    return assign(slots.target(target, kind), lambda low, high: low | (high.astype(whole) << shift), places)


def _separate(slots: Slots, target: Vector, source: Operand, kind: str) -> Step:
    half, whole, bits = _halves(kind, target)
    own, dtype = slots.source(source, kind), DTYPES[half]
    shifts = whole(0), whole(bits)
    steps = [
        assign(slots.target(item, half), lambda x, shift=shift: (x >> shift).astype(dtype), [own])
        for item, shift in zip(target.items, shifts, strict=True)
        if item is not None
    ]

    def step(cta: Cta, mask: Mask) -> None:
        for part in steps:
            part(cta, mask)

    return step


def translate_bfe(slots: Slots, instruction: Instruction) -> Step:
    """A field of bits at a constant place."""
    target, source, start, length = instruction.operands
    kind, first, bits = instruction.parts[1], constant_of(start), constant_of(length)
    if kind not in ("u32", "s32") or bits < 1 or first + bits > 32:
        raise UnsupportedPtxError("bfe of 64 bits, or beyond the register")
    dtype = DTYPES[kind]
    up, down = dtype(32 - first - bits), dtype(32 - bits)
    function = with_views(lambda x: (x << up) >> down, (kind,), kind)
    return assign(slots.target(target, kind), function, [slots.source(source, kind)])


def translate_prmt(slots: Slots, instruction: Instruction) -> Step:
    """Bytes of two registers, chosen by a constant."""
    target, low, high, choice = instruction.operands
    chosen = constant_of(choice)
    if instruction.op != "prmt.b32" or chosen & 0x8888:
        raise UnsupportedPtxError("prmt with a mode, or of signs")
    places = [chosen >> 4 * i & 7 for i in range(4)]

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.stack([a, b], 1).view(U1)[:, places]).view(U4).reshape(-1)

    return assign(slots.target(target, "b32"), function, [slots.source(low, "b32"), slots.source(high, "b32")])
