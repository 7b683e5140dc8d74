"""The shipped kernels, executed: every kind of shape on the products of each generation of tensor cores."""

import pytest
from covering import covering
from ptx.cases import CASES, attention_files, run
from sparse_vdit.kernels.backends import shipped

GENERATIONS = ("sm_80", "sm_86", "sm_90", "sm_100")  # each multiplies in another way, sm_86 in 8 bits
OF_ARCH = [[file for file in attention_files() if file.startswith(f"{arch}/")] for arch in GENERATIONS]
FILES = [files[(2 + 5 * number) % len(files)] for number, files in enumerate(OF_ARCH)]  # with other dtypes and sizes


@pytest.mark.parametrize(("name", "file"), covering(list(CASES), FILES))
def test_shapes_are_right(name, file):
    result = run(CASES[name], file)
    assert result.right, f"relative L2 {result.error:.2e}"
    kernels = [ran.launch.kernel for ran in result.card.runs]
    assert kernels[-1] == "attention"
    assert ("tile_means" in kernels) == (name == "routed")
    assert {ran.file for ran in result.card.runs if ran.launch.kernel == "attention"} == {file}


def test_odd_slices_are_copied_and_others_are_not():
    addresses = []
    for name in ("odd slices", "transposed", "fused qkv"):
        (ran,) = run(CASES[name], FILES[0]).card.runs
        q, k, v = ran.launch.arguments[:3]
        addresses.append(k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr())
        assert all(step % 16 == 0 for x in (q, k, v) for step in x.stride()[:3])
    assert addresses == [False, True, True]


def test_helpers_ran_for_every_kind_of_call():
    files = {ran.file for name in ("routed", "batch of 2") for ran in run(CASES[name], FILES[1]).card.runs}
    entries = {shipped.binary(file).entry for file in files}
    assert entries == {*shipped.manifest()["kernels"]}
