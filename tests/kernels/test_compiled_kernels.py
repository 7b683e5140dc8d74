"""The files of the kernels that ship compiled: complete, what the manifest says, and what a build gives today."""

import importlib
import importlib.util
import inspect
import itertools
import os
import re
import subprocess
import sys

import pytest
from load_pack import ROOT
from sparse_vdit.kernels.backends import shipped
from sparse_vdit.kernels.backends.launcher import KERNELS
from sparse_vdit.kernels.configs import HEAD_DIMS, NO_INT8, NVIDIA_ARCHS, kernel_config
from sparse_vdit.kernels.tiling import KEY_TILE, QUERY_TILE

from tools import build_kernels

MAX_BYTES = 1_100_000
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def expected_names():
    for dtype, head_dim in itertools.product(("bf16", "fp16"), HEAD_DIMS):
        for keys, values in ((True, False), (False, True), (True, True)):
            written = {"KEYS": keys, "VALUES": values}
            yield shipped.file_name("sm_90", "quantize_tiles", dtype, {"HEAD_DIM": head_dim, **written})
        for tile in (KEY_TILE, QUERY_TILE):
            yield shipped.file_name("sm_90", "tile_means", dtype, {"HEAD_DIM": head_dim, "TILE": tile})
        for arch, int8 in itertools.product(NVIDIA_ARCHS, (False, True)):
            if not (int8 and arch in NO_INT8):
                yield shipped.file_name(arch, "attention", dtype, {"HEAD_DIM": head_dim, "INT8": int8})
    yield shipped.file_name("sm_90", "select_tiles", "fp32", {})


NAMES = sorted(expected_names())


def test_manifest_and_files_are_complete():
    assert sorted(shipped.manifest()["files"]) == NAMES
    found = [path for path in shipped.FOLDER.rglob("*") if path.is_file()]
    wanted = {f"{name}.ptx.gz" for name in NAMES} | {shipped.MANIFEST, "README.md"}
    assert {path.relative_to(shipped.FOLDER).as_posix() for path in found} == wanted
    assert sum(path.stat().st_size for path in found) < MAX_BYTES


def test_files_are_built_from_the_sources_of_today():
    assert shipped.manifest()["sources"] == shipped.sources_digest(), "run python -m tools.build_kernels"


@pytest.mark.parametrize("name", NAMES)
def test_file_is_what_the_manifest_says(name):
    arch, variant = name.split("/")
    ptx, binary = shipped.read_ptx(name).decode(), shipped.binary(name)
    isa = shipped.manifest()["archs"][arch]["ptx_isa"]
    assert f".version {isa}\n" in ptx
    assert re.search(rf"^\.target {arch}a?$", ptx, re.MULTILINE)
    assert f".entry {binary.entry}(" in ptx
    assert ptx.count("\t.param .") == len(binary.parameters) + binary.scratch
    assert f".reqntid {binary.threads}\n" in ptx
    assert not re.search(r"^\s*\.(file|loc|section)\b|/(home|root|tmp|work|usr)/", ptx, re.MULTILINE)
    if "attention" in variant:
        config = kernel_config(arch, binary.constants["HEAD_DIM"], "int8" in variant)
        built = (binary.constants["ROWS"], binary.warps, binary.constants["STAGES"], binary.constants["FP16_SUMS"])
        assert built == (config.rows, config.warps, config.stages, config.fp16_sums)
        assert (f".maxnreg {config.registers}\n" in ptx) == (".maxnreg" in ptx) == (config.registers is not None)


def test_compression_is_the_same_everywhere():
    for name in NAMES:
        packed = (shipped.FOLDER / f"{name}.ptx.gz").read_bytes()
        assert packed[4:8] == bytes(4), "a time stamp"


def test_a_build_replaces_files_and_keeps_the_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    for name in ("README.md", "sm_80/old.ptx.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    build_kernels.write({"files": {}}, {"sm_80/new": b"new"})
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"README.md", "manifest.json", "sm_80/new.ptx.gz"}


@needs_triton
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "pack_tiles"])  # waits for a GPU
def test_parameters_are_the_kernels_own_in_order(kernel):
    module, function = KERNELS[kernel]
    source = getattr(importlib.import_module(f"sparse_vdit.kernels.backends.triton_kernels.{module}"), function)
    parameters = inspect.signature(source.fn).parameters.values()
    wanted = [p.name for p in parameters if "constexpr" not in str(p.annotation)]
    assert [*shipped.manifest()["kernels"][function]["parameters"]] == wanted


def check(only):
    """What the build command says of the shipped files whose names start so."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tools.build_kernels", "--check", "--only", only]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@needs_triton
@pytest.mark.parametrize("only", ["sm_90/attention-bf16-64-int8", "sm_80/tile_means_64-fp16-128"])
def test_a_rebuild_gives_what_ships(only):
    """One with a loop and one without: all others are as long as the sources are those that they were built from."""
    result = check(only)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 files are what ships" in result.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("arch", NVIDIA_ARCHS)
def test_a_rebuild_of_all_gives_what_ships(arch):
    result = check(f"{arch}/")
    assert result.returncode == 0, result.stdout + result.stderr
