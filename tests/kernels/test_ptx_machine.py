"""The machine itself, on programs of a few lines: what it computes, and which violations it names where."""

import ctypes

import numpy as np
import pytest
from ptx import cta
from ptx.errors import PtxError, UnsupportedPtxError
from ptx.global_memory import GlobalMemory
from ptx.library import DriverLibrary
from ptx.machine import Machine
from ptx.numbers import to_bf16, to_integer
from ptx.parsing import parse
from ptx.program import Program
from ptx.shared_memory import SharedMemory
from sparse_vdit.kernels.backends.cuda_driver import Driver

HEAD = """
.version 7.4
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry small(.param .u64 .ptr .global .align 1 small_param_0, .param .u32 small_param_1)
.reqntid 64
{
.reg .pred %p<9>;
.reg .b16 %rs<9>;
.reg .b32 %r<99>;
.reg .b64 %rd<9>;
ld.param.b64 %rd1, [small_param_0];
ld.param.b32 %r1, [small_param_1];
mov.u32 %r2, %tid.x;
mad.wide.u32 %rd2, %r2, 4, %rd1;
mov.b32 %r3, global_smem;
shl.b32 %r4, %r2, 2;
add.s32 %r5, %r3, %r4;
"""
FIRST = HEAD.count("\n") + 1  # line of what follows


def execute(body, out, number=0, shared=1024, grid=(1, 1)):
    """Run a program that has %rd2 for its element of `out`, %r1 a number, %r2 its thread, %r5 its word."""
    (kernel,) = parse(f"{HEAD}{body}\nret;\n}}\n").values()
    memory = GlobalMemory()
    held = memory.add("out", out.ctypes.data, out.nbytes)
    held.writable[:] = held.readable[:] = 1
    Machine().launch(Program(kernel, 1024), memory, grid, [out.ctypes.data, number], shared)


def words(count=64):
    """Zeros that start at a multiple of 64 bytes."""
    whole = np.zeros(count + 16, np.uint32)
    start = -whole.ctypes.data % 64 // 4
    return whole[start : start + count]


THREADS = np.arange(64)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("add.s32 %r9, %r2, -7;", THREADS - 7),
        ("sub.s32 %r8, %r2, 40; shr.s32 %r9, %r8, 2;", (THREADS - 40) >> 2),
        ("sub.s32 %r8, %r2, 40; shr.u32 %r9, %r8, 40;", THREADS * 0),
        ("sub.s32 %r8, %r2, 40; div.s32 %r9, %r8, 7;", np.trunc((THREADS - 40) / 7)),
        ("sub.s32 %r8, %r2, 40; rem.s32 %r9, %r8, 7;", np.fmod(THREADS - 40, 7)),
        ("bfe.u32 %r9, %r2, 2, 3;", THREADS >> 2 & 7),
        ("prmt.b32 %r9, %r2, 0xAABBCCDD, 0x5400;", 0xCCDD0000 | THREADS * 0x0101),
        ("cvt.rn.f32.s32 %r8, %r2; mul.f32 %r8, %r8, 0f3FC00000; cvt.rzi.s32.f32 %r9, %r8;", THREADS * 3 // 2),
        ("cvt.u16.u32 %rs1, %r2; mov.b32 %r9, {%rs1, %rs1};", THREADS * 0x10001),
        ("mov.b32 {%rs1, %rs2}, %r2; cvt.u32.u16 %r9, %rs2;", THREADS * 0),
        ("shfl.sync.bfly.b32 %r9, %r2, 5, 31, -1;", THREADS ^ 5),
        ("shfl.sync.idx.b32 %r9, %r2, 3, 31, -1;", THREADS // 32 * 32 + 3),
        ("shfl.sync.up.b32 %r9, %r2, 3, 0, -1;", np.where(THREADS % 32 < 3, THREADS, THREADS - 3)),
        ("redux.sync.add.s32 %r9, %r2, -1;", np.repeat(THREADS.reshape(2, 32).sum(1), 32)),
        ("popc.b32 %r9, %r2;", [bin(thread).count("1") for thread in THREADS]),
        ("sub.s32 %r8, %r2, 40; st.shared.b32 [%r5], %r8; ld.shared.s8 %r9, [%r5];", THREADS - 40),
        ("sub.s32 %r8, %r2, 40; st.shared.b32 [%r5], %r8; ld.shared.u8 %r9, [%r5];", (THREADS - 40) % 256),
        ("mov.b32 %r8, 0f7FC00000; max.NaN.f32 %r9, %r8, 0f3F800000;", THREADS * 0 + 0x7FC00000),
        ("mov.b32 %r8, 0f7FC00000; max.f32 %r9, %r8, 0f3F800000;", THREADS * 0 + 0x3F800000),
        ("setp.lt.s32 %p1, %r2, 9; selp.b32 %r9, %r2, %r1, %p1;", np.where(THREADS < 9, THREADS, 5)),
        ("mov.b32 %r9, 1; setp.lt.s32 %p1, %r2, 9; @!%p1 mov.b32 %r9, %r1;", np.where(THREADS < 9, 1, 5)),
        ("mov.b32 %r9, 0; $L: add.s32 %r9, %r9, 3; setp.le.u32 %p1, %r9, %r2; @%p1 bra $L;", (THREADS // 3 + 1) * 3),
        ("st.shared.b32 [%r5], %r2; bar.sync 0; xor.b32 %r8, %r5, 128; ld.shared.b32 %r9, [%r8];", THREADS ^ 32),
        ("{ .reg .b32 own; mov.b32 own, 3; { .reg .b32 own; mov.b32 own, 4; } mov.b32 %r9, own; }", THREADS * 0 + 3),
    ],
)  # fmt: skip
def test_it_computes(body, expected):
    out = words()
    execute(f"{body} st.global.b32 [%rd2], %r9;", out, 5)
    assert (out == np.asarray(expected).astype(np.int64).astype(np.uint32)).all(), out


@pytest.mark.parametrize(
    ("body", "instruction", "message"),
    [
        ("add.s64 %rd3, %rd2, 4;\nld.global.b32 %r9, [%rd3];", 1, "load of 4 bytes, outside of all tensors: out"),
        ("ld.global.b32 %r9, [%rd2+2];", 0, "misaligned"),
        ("st.global.b32 [%rd1], %r2;", 0, "another lane writes differently"),
        ("ld.shared.b32 %r9, [%r5];", 0, "never written"),
        ("ld.shared.b32 %r9, [%r5+1000];", 0, r"shared address 1024 \+ 4 of 1024 bytes, 58 lanes"),
        ("ld.shared.v2.b32 {%r9, %r10}, [%r5+8];", 0, "misaligned shared access of 8 bytes"),
        ("st.shared.b32 [%r5], %r2;\nxor.b32 %r8, %r5, 128;\nld.shared.b32 %r9, [%r8];", 2, "another warp stores"),
        ("setp.lt.s32 %p1, %r2, 32;\n@%p1 st.shared.b32 [%r5], 1;\n@!%p1 st.shared.b32 [%r5+-128], 2;", 1, "two warps"),
        ("st.shared.b32 [%r3], %r2;", 0, "lanes store different values"),
        ("cp.async.cg.shared.global [%r3], [%rd1], 16;\nst.shared.b32 [%r3], 1;", 1, "a copy is in flight"),
        ("add.s32 %r9, %r10, 1;", 0, "%r10 without a value"),
        ("setp.lt.s32 %p1, %r2, 3;\n@%p1 shfl.sync.bfly.b32 %r9, %r2, 1, 31, -1;", 1, "part of a warp"),
        ("clock.u32 %r9;", 0, "unknown instruction"),
        ("mov.b32 %r9, %rs1;", 0, "%rs1 is .b16, used as .b32"),
    ],
)
def test_violations_name_instruction_and_line(body, instruction, message):
    with pytest.raises(PtxError, match=message) as caught:
        execute(body, words())
    assert f"small, block (0, 0) of (1, 1): line {FIRST + instruction}: " in str(caught.value)
    assert caught.value.instruction.text == " ".join(body.split("\n")[instruction].split()).rstrip(";")


def test_copies_at_the_end_are_noticed():
    with pytest.raises(PtxError, match=r"ret: cp.async is not waited for"):
        execute("setp.eq.s32 %p1, %r2, 0; @%p1 cp.async.cg.shared.global [%r3], [%rd1], 16;", words())


def test_blocks_that_write_to_one_place_are_noticed():
    execute("st.global.b32 [%rd2], %r2;", words())
    with pytest.raises(PtxError, match=r"block \(1, 0\) of \(2, 1\).*another block has written"):
        execute("st.global.b32 [%rd2], %r2;", words(), grid=(2, 1))


def test_barriers_do_not_wait_for_threads_that_have_returned():
    out = words()
    execute("setp.lt.s32 %p1, %r2, 32;\n@%p1 bra $L;\nbar.sync 0;\nst.global.b32 [%rd2], %r2;\n$L:", out)
    assert (out == np.where(THREADS < 32, 0, THREADS)).all()


def test_endless_loops_end(monkeypatch):
    monkeypatch.setattr(cta, "MAX_STRETCHES", 100)
    with pytest.raises(PtxError, match="runs for ever"):
        execute("$L: bra $L;", words())


def test_rights_are_by_byte():
    out = words()
    (kernel,) = parse(f"{HEAD}ld.global.b32 %r9, [%rd2];\nst.global.b32 [%rd2], %r9;\nret;\n}}\n").values()
    for right, what in (("readable", "load"), ("writable", "store")):
        memory = GlobalMemory()
        held = memory.add("out", out.ctypes.data, out.nbytes)
        held.readable[:] = held.writable[:] = 1
        getattr(held, right)[4 * 37 + 2] = 0
        with pytest.raises(PtxError, match=f"{what} of 4 bytes, .* 1 lanes"):
            Machine().launch(Program(kernel, 0), memory, (1, 1), [out.ctypes.data, 0], 0)


def test_a_fence_counts_once_all_threads_have_executed_it():
    first, second = np.arange(64) < 32, np.arange(64) >= 32
    both = (first, second)
    for fences, store_between, loose in (
        ((None,), False, False), ((first,), False, True), (both, False, False), (both, True, True),
    ):  # fmt: skip
        memory = SharedMemory(64, 0)
        access = memory.access(np.arange(0, 64, 4, dtype=np.uint32), 4, np.zeros(16, np.uint8), None)
        memory.store(access, np.arange(16, dtype=np.uint32))
        for threads in fences:
            memory.fence(threads)
            if store_between:
                memory.store(access, np.arange(16, dtype=np.uint32))
        if loose:
            with pytest.raises(PtxError, match="16 words stored since the last proxy fence"):
                memory.tensor_load(access)
        else:
            assert memory.tensor_load(access).tolist() == list(range(16))


def test_roundings():
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1.5, np.inf, np.nan], np.float32)
    assert [*to_bf16(values)] == [0x3F80, 0x3F80, 0x3F82, 0xBFC0, 0x7F80, 0x7FFF]
    assert [*to_integer(np.array([1e9, -2.5, np.nan], np.float32), np.int16, "rzi")] == [32767, -2, 0]


@pytest.mark.parametrize("text", ["st.shared.b32 [%r5 - 4], 1;", ".weird 3;", "mov.b32 %q1, 3;"])
def test_what_it_cannot_read_is_named(text):
    with pytest.raises(UnsupportedPtxError, match=f"line {FIRST}"):
        parse(f"{HEAD}{text}\nret;\n}}\n")


PTX = f"{HEAD}ret;\n}}\n".encode()


@pytest.mark.parametrize(
    ("capability", "shared", "error"),
    [((8, 0), 0, None), ((9, 0), 0, None), ((7, 5), 0, 209), ((8, 0), 163 * 1024, None), ((8, 0), 164 * 1024, 1)],
)
def test_modules_load_where_they_would(capability, shared, error):
    driver = Driver(DriverLibrary(capability))
    if error is None:
        assert driver.load(0, PTX, "small", shared).device == 0
        return
    with pytest.raises(RuntimeError, match=f"CUDA_ERROR_{error}"):
        driver.load(0, PTX, "small", shared)


@pytest.mark.parametrize(
    ("grid", "threads", "shared", "error"),
    [
        ((3, 2), 64, 0, 0),
        ((0, 1), 64, 0, 1),
        ((1, 65536), 64, 0, 1),
        ((1, 1), 32, 0, 1),
        ((1, 1), 64, 48 * 1024 + 1, 1),
    ],
)
def test_launches_that_a_driver_refuses_are_refused(grid, threads, shared, error):
    library, ran = DriverLibrary((8, 0), execute=lambda *launch: ran.append(launch)), []
    driver, out = Driver(library), words()
    function = driver.load(0, PTX, "small", 0)
    arguments = [ctypes.c_void_p(out.ctypes.data), ctypes.c_int32(-3)]
    if error:
        with pytest.raises(RuntimeError, match=f"cuLaunchKernel failed: CUDA_ERROR_{error}"):
            driver.launch(function, grid, threads, shared, 77, arguments)
        assert not ran
        return
    driver.launch(function, grid, threads, shared, 77, arguments)
    assert ran[0][1:] == (grid, [out.ctypes.data, 2**32 - 3], 0)
