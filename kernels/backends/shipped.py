"""The kernels that ship compiled: which file serves which launch, what its manifest says, and its arguments.

`kernels/compiled/` holds PTX, the driver's portable assembly, one gzip per variant, and `manifest.json`. PTX of sm_80,
sm_86 and sm_89 also runs on every newer card; that of later architectures on exactly the card it is for.
"""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .launcher import Launch

FOLDER = Path(__file__).resolve().parent.parent / "compiled"
MANIFEST = "manifest.json"
DTYPE_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
HELPER_ARCH = "sm_80"  # the small kernels gain nothing from newer architectures
EXACT = {(9, 0): "sm_90", (10, 0): "sm_100", (12, 0): "sm_120"}
PORTABLE = {(8, 9): "sm_89", (8, 6): "sm_86", (8, 0): "sm_80"}
WARP = 32
REINSTALL = "install the pack again"


@dataclass(frozen=True)
class Binary:
    """One shipped kernel, as the manifest describes it.

    Attributes:
        entry: its name in the PTX.
        sha256: of the PTX, uncompressed.
        shared: bytes of shared memory a program takes.
        warps, constants: what it was compiled for.
        parameters: type of each argument by name, much as Triton writes them: `*:16` is a pointer, `i32:16` a number,
            both divisible by 16.
        scratch: pointers that follow, which no kernel here uses.
    """

    entry: str
    sha256: str
    shared: int
    warps: int
    constants: dict[str, int | str | bool]
    parameters: dict[str, str]
    scratch: int

    @property
    def threads(self) -> int:
        """Of one program."""
        return WARP * self.warps

    def check(self, launch: Launch) -> None:
        """Raises RuntimeError when a launch is not what this was compiled for."""
        if (launch.constants, launch.warps) != (self.constants, self.warps):
            raise RuntimeError(
                f"{self.entry} ships for {self.constants} and {self.warps} warps, wanted {launch.constants} and "
                f"{launch.warps}: {REINSTALL}"
            )

    def pack(self, arguments: tuple[Tensor | int | float, ...]) -> list[ctypes._SimpleCData]:
        """Arguments as the driver takes them. Raises RuntimeError for a number that the kernel cannot take."""
        if len(arguments) != len(self.parameters):
            raise RuntimeError(f"{self.entry} takes {len(self.parameters)} arguments, got {len(arguments)}")
        typed = zip(self.parameters.items(), arguments, strict=True)
        return [_pack(name, kind, value) for (name, kind), value in typed] + [ctypes.c_void_p()] * self.scratch


def _pack(name: str, kind: str, value: Tensor | int | float) -> ctypes._SimpleCData:
    kind, _, divisor = kind.partition(":")
    if kind == "fp32":
        return ctypes.c_float(value)
    number = value.data_ptr() if kind.startswith("*") else value
    if divisor and number % int(divisor):
        raise RuntimeError(f"{name} = {number} is not divisible by {divisor}, which its kernel relies on")
    if kind.startswith("*"):
        return ctypes.c_void_p(number)
    if not -(2**31) <= number < 2**31:  # ctypes would cut it off
        raise RuntimeError(f"{name} = {number} does not fit 32 bits, which its kernel takes")
    return ctypes.c_int32(number)


def arch_of(capability: tuple[int, int]) -> str | None:
    """Architecture whose files serve a card; None for a card older than all of them."""
    if capability in EXACT:
        return EXACT[capability]
    return next((arch for own, arch in PORTABLE.items() if own <= capability), None)


def file_name(arch: str, kernel: str, dtype: str, constants: dict[str, int | str | bool]) -> str:
    """Name of a variant in the manifest, and of its file less `.ptx.gz`."""
    folder = arch if kernel == "attention" else HELPER_ARCH
    if kernel == "select_tiles":  # whose scores are in fp32, whatever the model is in
        return f"{folder}/{kernel}"
    name = f"{kernel}_{constants['TILE']}" if "TILE" in constants else kernel
    options = [option.lower() for option in ("INT8", "KEYS", "VALUES") if constants.get(option)]
    return f"{folder}/{'-'.join([name, dtype, str(constants['HEAD_DIM']), *options])}"


@cache
def manifest() -> dict:
    """Contents of `manifest.json`. Raises RuntimeError when it cannot be read."""
    try:
        return json.loads((FOLDER / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RuntimeError(f"the list of shipped kernels cannot be read ({error}): {REINSTALL}") from None


def binary(name: str) -> Binary:
    """What the manifest says of a variant. Raises RuntimeError for one that does not ship."""
    contents = manifest()
    with _damage_named():
        if name not in contents["files"]:
            raise RuntimeError(f"there is no shipped kernel {name}: {REINSTALL}")
        record = contents["files"][name]
        kernel = contents["kernels"][record["entry"]]
        return Binary(**record, parameters=kernel["parameters"], scratch=kernel["scratch"])


def cuda_needed(arch: str) -> tuple[int, int]:
    """CUDA version of the oldest driver that reads an architecture's files. Raises RuntimeError for a damaged list."""
    with _damage_named():
        major, minor = manifest()["archs"][arch]["cuda"]
        return int(major), int(minor)


@contextmanager
def _damage_named() -> Iterator[None]:
    """Whatever a damaged manifest leads to, as a RuntimeError that says what to do."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RuntimeError(f"the list of shipped kernels is damaged ({error!r}): {REINSTALL}") from None


def read_ptx(name: str) -> bytes:
    """PTX of a variant. Raises RuntimeError when it is missing or not what the manifest says."""
    path = FOLDER / f"{name}.ptx.gz"
    try:
        ptx = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise RuntimeError(f"the shipped kernel {name} cannot be read ({error}): {REINSTALL}") from None
    if hashlib.sha256(ptx).hexdigest() != binary(name).sha256:
        raise RuntimeError(
            f"the shipped kernel {name} is not the file that was built (its sha256 differs): {REINSTALL}"
        )
    return ptx


def sources_digest() -> str:
    """sha256 of all that the shipped files are made from; the manifest keeps the one they were made from."""
    kernels = FOLDER.parent
    paths = [*sorted((kernels / "backends/triton_kernels").glob("*.py"))]
    paths += [kernels.parent / "tools/ahead_of_time.py", kernels / "configs.py", kernels / "tiling.py"]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_text(encoding="utf-8").encode())  # as text: git may have changed the line ends
    return digest.hexdigest()
