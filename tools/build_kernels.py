"""Builds the kernels that ship compiled, `kernels/compiled/`, from the Triton sources. Needs Triton, no GPU.

    python -m tools.build_kernels                     build all, some minutes
    python -m tools.build_kernels --check             build all again and compare with what ships
    python -m tools.build_kernels --check --only sm_80/attention-bf16-64    the same for names that start so

The same sources and the same Triton give the same PTX on every machine.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sparse_vdit.kernels.backends import shipped
from sparse_vdit.kernels.configs import HEAD_DIMS, NO_INT8, NVIDIA_ARCHS
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE

ROOT = Path(__file__).resolve().parent.parent
CUDA_OF_ISA = {74: (11, 4), 78: (11, 8), 80: (12, 0), 86: (12, 7), 87: (12, 8)}  # the first driver that reads a version
HELPERS = {  # as `ahead_of_time.py` calls them: the kernel and what it is compiled for
    "quantize_keys": ("quantize_tiles", {"KEYS": True}),
    "quantize_values": ("quantize_tiles", {"VALUES": True}),
    "quantize_both": ("quantize_tiles", {"KEYS": True, "VALUES": True}),
    f"tile_means_{KEY_TILE}": ("tile_means", {"TILE": KEY_TILE}),
    f"tile_means_{QUERY_TILE}": ("tile_means", {"TILE": QUERY_TILE}),
}
PTX_KINDS = {"*": "u64", "i": "u32", "f": "f32"}  # by the first letter of Triton's type


def prepare_compiler(cache: str) -> None:
    """Before Triton is imported: nothing interpreted, nothing from a cache, no source lines (they name folders)."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ |= {"TRITON_CACHE_DIR": cache, "TRITON_DISABLE_LINE_INFO": "1"}


def tasks(only: str) -> list[tuple[str, tuple]]:
    """Name of everything that ships and what to compile for it, of names that start with `only`."""
    arch = shipped.HELPER_ARCH
    found = [(shipped.file_name(arch, "select_tiles", "fp32", {}), ("select_tiles", "fp32", 0))]
    for dtype, head_dim in itertools.product(shipped.DTYPE_NAMES.values(), HEAD_DIMS):
        for helper, (kernel, constants) in HELPERS.items():
            name = shipped.file_name(arch, kernel, dtype, {"HEAD_DIM": head_dim, **constants})
            found.append((name, (helper, dtype, head_dim)))
        for card, int8 in itertools.product(NVIDIA_ARCHS, (False, True)):
            if int8 and card in NO_INT8:
                continue
            name = shipped.file_name(card, "attention", dtype, {"HEAD_DIM": head_dim, "INT8": int8})
            found.append((name, ("attention", card, dtype, head_dim, int8)))
    return sorted(task for task in found if task[0].startswith(only))


def compile_task(task: tuple[str, tuple]) -> tuple[str, dict, dict, bytes]:
    """Name, record of the file, record of the kernel, PTX. Runs in a process of its own."""
    from tools.ahead_of_time import attention_kernel, helper_kernel

    name, (kernel, *variant) = task
    if kernel == "attention":
        compiled = attention_kernel(*variant)
    else:
        compiled = helper_kernel(kernel, shipped.HELPER_ARCH, *variant)
    print(name, flush=True)
    return name, *describe(name, compiled), compiled.asm["ptx"].encode()


def describe(name: str, compiled: object) -> tuple[dict, dict]:
    """What the manifest says of a file, and of its kernel.

    Raises:
        RuntimeError: PTX that the launcher would not know how to call, or that names this machine.
    """
    ptx, metadata, source = compiled.asm["ptx"], compiled.metadata, compiled.src
    types = {n: _type(source, i) for i, n in enumerate(source.fn.arg_names) if source.signature[n] != "constexpr"}
    entry = re.search(r"\.entry (\w+)\((.*?)\)", ptx, re.DOTALL)
    kinds = re.findall(r"\.param \.(\w+)", entry.group(2))
    scratch = len(kinds) - len(types)
    if kinds != [PTX_KINDS[kind[0]] for kind in types.values()] + ["u64"] * scratch:
        raise RuntimeError(f"{name}: the parameters of the PTX, {kinds}, are not those of the kernel, {types}")
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise RuntimeError(f"{name}: the kernel needs scratch memory, which the launcher does not give")
    if re.search(r"^\s*\.(file|loc|section)\b", ptx, re.MULTILINE) or str(ROOT) in ptx:
        raise RuntimeError(f"{name}: the PTX names source files")
    record = {
        "entry": entry.group(1),
        "sha256": hashlib.sha256(ptx.encode()).hexdigest(),
        "shared": metadata.shared,
        "warps": metadata.num_warps,
        "constants": {source.fn.arg_names[place]: value for (place,), value in source.constants.items()},
    }
    return record, {"parameters": types, "scratch": scratch}


def _type(source: object, place: int) -> str:
    """Triton's notation of a parameter's type; of a pointer without what it points at."""
    kind = source.signature[source.fn.arg_names[place]]
    kind = "*" if kind.startswith("*") else kind
    divisor = dict(source.attrs.get((place,), ())).get("tt.divisibility")
    return kind if divisor is None else f"{kind}:{divisor}"


def build(only: str = "") -> tuple[dict, dict[str, bytes]]:
    """The manifest and the PTX of each file."""
    import triton

    from tools.ahead_of_time import PTX_ISA

    sources = shipped.sources_digest()
    files, kernels, texts = {}, {}, {}
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, record, kernel, ptx in pool.map(compile_task, tasks(only)):
            files[name], texts[name] = record, ptx
            if kernels.setdefault(record["entry"], kernel) != kernel:
                raise RuntimeError(f"{name}: its parameters are not those of the kernel's other variants")
    if sources != shipped.sources_digest():
        raise RuntimeError("the sources changed while they were built: build again")
    archs = {arch: {"ptx_isa": PTX_ISA[arch] / 10, "cuda": list(CUDA_OF_ISA[PTX_ISA[arch]])} for arch in NVIDIA_ARCHS}
    head = {"triton": triton.__version__, "sources": sources, "archs": archs}
    return {**head, "kernels": kernels, "files": files}, texts


def write(manifest: dict, texts: dict[str, bytes]) -> None:
    """Put everything in place of what ships now; the README stays."""
    for path in shipped.FOLDER.rglob("*.gz"):
        path.unlink()
    for name, ptx in texts.items():
        path = shipped.FOLDER / f"{name}.ptx.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(ptx, 9, mtime=0))
    text = json.dumps(manifest, indent=1) + "\n"
    (shipped.FOLDER / shipped.MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    total = sum(path.stat().st_size for path in shipped.FOLDER.rglob("*") if path.is_file())
    print(f"{len(texts)} files, {total:,} bytes")


def differences(built: dict, texts: dict[str, bytes], only: str) -> list[str]:
    """In words, what ships otherwise than it was built now."""
    ships = shipped.manifest()
    found = [
        f"{key}: {ships[key]} ships, now {built[key]}"
        for key in ("triton", "sources", "archs")
        if ships[key] != built[key]
    ]
    changed = [entry for entry, kernel in built["kernels"].items() if ships["kernels"].get(entry) != kernel]
    found += [f"parameters of {entry} differ" for entry in changed]
    paths = (path.relative_to(shipped.FOLDER).as_posix() for path in shipped.FOLDER.rglob("*.gz"))
    names = {*ships["files"], *(path.removesuffix(".ptx.gz") for path in paths), *texts}
    for name in sorted(name for name in names if name.startswith(only)):
        if name not in texts:
            found.append(f"{name}: ships, but is not built any more")
        elif ships["files"].get(name) != built["files"][name]:
            found.append(f"{name}: the manifest says otherwise")
        else:
            found += _changed(name)
    return found


def _changed(name: str) -> list[str]:
    try:
        shipped.read_ptx(name)  # compares with the sum in the manifest
    except RuntimeError as error:
        return [str(error)]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what ships, write nothing")
    parser.add_argument("--only", default="", metavar="NAME", help="with --check: names that start so")
    options = parser.parse_args()
    if options.only and not options.check:
        parser.error("--only goes with --check: what ships is built together")
    with tempfile.TemporaryDirectory() as cache:
        prepare_compiler(cache)
        manifest, texts = build(options.only)
    if not options.check:
        write(manifest, texts)
        return 0
    found = differences(manifest, texts, options.only)
    print("\n".join(found) or f"{len(texts)} files are what ships")
    return 1 if found or not texts else 0


if __name__ == "__main__":
    sys.exit(main())
