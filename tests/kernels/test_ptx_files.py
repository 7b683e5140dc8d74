"""The shipped attention kernels, executed: one of each architecture and head_dim against the oracle."""

import itertools

import pytest
import torch
from ptx.card import plugged
from ptx.cases import CASES, WHOLE, attention_files, call_of, one_of_each, run
from ptx.machine import Machine
from ptx.parsing import parse
from ptx.program import Program
from sparse_vdit.kernels import attention
from sparse_vdit.kernels.backends import shipped
from sparse_vdit.kernels.configs import HEAD_DIMS, NVIDIA_ARCHS

EACH = one_of_each()
QUICK = [EACH[number] for number in (0, 3, 4, 6, 9, 10)]  # one of each architecture, in 8 bits and not, of both sizes
OTHERS = [pytest.param(file, marks=pytest.mark.slow) for file in EACH if file not in QUICK]


@pytest.mark.parametrize("file", [*QUICK, *OTHERS])
def test_a_kernel_of_each_architecture_is_right(file):
    machine = Machine()
    for case in (WHOLE, CASES["less than a tile"]):
        result = run(case, file, machine)
        assert result.right, f"relative L2 {result.error:.2e}"
    (program,) = (program for program in machine.visits if program.kernel.name == shipped.binary(file).entry)
    missed = [stretch.last.line for stretch, n in zip(program.stretches, machine.visits[program], strict=True) if not n]
    assert not missed, f"instructions before these lines never ran: {missed}"


def test_all_kinds_of_kernels_are_among_them():
    chosen = [shipped.binary(file).constants for file in one_of_each()]
    assert len(chosen) == len(NVIDIA_ARCHS) * len(HEAD_DIMS)
    assert {(one["HEAD_DIM"], one["INT8"]) for one in chosen} == {*itertools.product(HEAD_DIMS, (False, True))}
    assert {file.split("-")[1] for file in one_of_each()} == {*shipped.DTYPE_NAMES.values()}
    assert {*one_of_each()} <= {*attention_files()}


def test_every_shipped_instruction_is_known():
    for file in shipped.manifest()["files"]:
        for kernel in parse(shipped.read_ptx(file).decode()).values():
            unknown = Program(kernel, 0).unknown
            assert not unknown, f"{file}: {unknown[0]}"


@pytest.fixture
def untested():
    """Backends that no self-test has spoken for, and that nobody remembers afterwards."""
    attention.forget_failures()
    yield
    attention.forget_failures()


def test_the_door_tests_the_kernels_and_takes_them(untested):
    call = call_of(CASES["routed"], "sm_90/attention-fp16-64")
    with plugged((9, 0)) as card:
        out = attention.sparse_attention(call.q, call.k, call.v, call.lists, call.head_lists)
        assert attention.choose_backend(call)[0] == "compiled"
    assert [ran.launch.kernel for ran in card.runs] == 2 * ["tile_means", "tile_means", "select_tiles", "attention"]
    assert torch.equal(out, run(CASES["routed"], "sm_90/attention-fp16-64").out)


@pytest.mark.parametrize("file", ["sm_80/attention-fp16-64", "sm_90/attention-fp16-64", "sm_100/attention-fp16-64"])
def test_where_shared_memory_lies_changes_nothing(file):
    case = CASES["odd grid"]
    assert torch.equal(run(case, file, shared_base=0).out, run(case, file, shared_base=4096).out)
