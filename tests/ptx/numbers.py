"""Numbers of PTX as numpy arrays: types, roundings and conversions."""

from __future__ import annotations

import numpy as np

U1, U2, U4, U8 = np.uint8, np.uint16, np.uint32, np.uint64
I1, I2, I4, I8 = np.int8, np.int16, np.int32, np.int64
F2, F4, F8 = np.float16, np.float32, np.float64
UNSIGNED = {1: U1, 2: U2, 4: U4, 8: U8}  # by bytes: registers and memory hold bits
DTYPES = {
    "b8": U1, "u8": U1, "s8": I1, "b16": U2, "u16": U2, "s16": I2, "f16": F2, "bf16": U2, "b32": U4, "u32": U4,
    "s32": I4, "f32": F4, "b64": U8, "u64": U8, "s64": I8, "pred": np.bool_,
}  # fmt: skip
SMALLEST_NORMAL = F4(np.finfo(F4).smallest_normal)
BF16_NAN = U4(0x7FFF)


def size_of(kind: str) -> int:
    """Bytes of a type. A predicate counts as one."""
    return np.dtype(DTYPES[kind]).itemsize


def extended(bits: np.ndarray, kind: str, register: str) -> np.ndarray:
    """Bits of a type in a register that may be wider: signed numbers keep their sign."""
    signed = bits.view(DTYPES[kind]) if kind.startswith("s") else bits
    return signed.astype(UNSIGNED[size_of(register)], copy=False)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Bits of bf16, in 32-bit words, of fp32: rounded to nearest, ties to even."""
    bits = x.view(U4)
    rounded = (bits + U4(0x7FFF) + ((bits >> U4(16)) & U4(1))) >> U4(16)
    return np.where(np.isnan(x), BF16_NAN, rounded)


def two_bf16(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Words of two bf16 from fp32."""
    return (to_bf16(high) << U4(16)) | to_bf16(low)


def two_f16(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Words of two fp16 from fp32."""
    return (high.astype(F2).view(U2).astype(U4) << U4(16)) | low.astype(F2).view(U2)


def widen(words: np.ndarray, kind: str) -> np.ndarray:
    """fp32 values of words that pack the elements of a matrix: twice (`f16`, `bf16`) or four times (`s8`) as many."""
    if kind == "s8":
        return words.view(I1).astype(F4)
    if kind == "f16":
        return words.view(F2).astype(F4)
    return (words.view(U2).astype(U4) << U4(16)).view(F4)


def flush(x: np.ndarray) -> np.ndarray:
    """fp32 with subnormal numbers as zeros, as `.ftz` has them."""
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(F4(0), x), x)


def exp2(x: np.ndarray) -> np.ndarray:
    """`ex2.approx.ftz`, without the error of the approximation."""
    return flush(np.exp2(flush(x).astype(F8)).astype(F4))


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in fp32. The product is exact in fp64; the sum is rounded twice, which hardly ever shows."""
    return (a.astype(F8) * b + c).astype(F4)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quotient of whole numbers, rounded to zero; all ones for a division by zero."""
    wide, by = a.astype(I8), b.astype(I8)
    quotient = np.abs(wide) // np.abs(np.where(by == 0, 1, by))
    return np.where(by == 0, -1, np.where((wide < 0) != (by < 0), -quotient, quotient)).astype(a.dtype)


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What `divide` leaves."""
    return (a.astype(I8) - divide(a, b).astype(I8) * b.astype(I8)).astype(a.dtype)


ROUNDINGS = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}


def to_integer(x: np.ndarray, dtype: type, rounding: str) -> np.ndarray:
    """Whole numbers of floats, within the limits of the type; 0 for NaN."""
    limits = np.iinfo(dtype)
    rounded = ROUNDINGS[rounding](x.astype(F8))
    if limits.bits < 64:
        return np.where(np.isnan(rounded), 0, np.clip(rounded, limits.min, limits.max)).astype(dtype)
    raise ValueError("64-bit integers have no exact limits in fp64")
