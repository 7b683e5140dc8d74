"""The machine can fail: kernels with one thing changed are noticed, by a fault or by a wrong result."""

from __future__ import annotations

import dataclasses

import pytest
from ptx.cases import ATTENTION, CASES, WHOLE, Case, run
from ptx.errors import PtxError
from ptx.mutants import Mutant, halfway, swap
from sparse_vdit.kernels.backends import shipped
from sparse_vdit.kernels.grid import TokenGrid

# text comes last: token 0, which programs store to for rows past the end, is then another program's
CASE = dataclasses.replace(WHOLE, grid=TokenGrid(3, 9, 15, suffix=71))


A_OF_MMA = r"(mma\.sync\S+ \{[^}]*\}, \{ *)(%r\d+), *(%r\d+)"
B_OF_MMA = r"(mma\.sync\S+ \{[^}]*\}, \{[^}]*\}, \{ *)(%r\d+), *(%r\d+)"
WAIT_LOOP = r"(mbarrier\.try_wait[^;]*;\s*)@!complete bra\.uni waitLoop;"
MUTANTS: dict[tuple[str, str], dict[str, Mutant]] = {  # of a call's file, in a kernel that it launches
    ("sm_80/attention-bf16-64", ATTENTION): {
        "registers of A swapped": halfway(A_OF_MMA, r"\1\3, \2"),
        "registers of B swapped": halfway(B_OF_MMA, r"\1\3, \2"),
        "a matrix not transposed": swap(r"\.trans\b", ""),
        "a swizzle of another line": swap(r"(xor\.b32\s+%r\d+, %r\d+), 32;", r"\1, 64;"),
        "rows twice as far apart": swap(r"(shl\.b64\s+%rd\d+, %rd\d+), 1;", r"\1, 2;", -1),
        "a lane too far": swap(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), 2,", r"\1, 4,"),
        "one copy more may be in flight": swap(r"(cp\.async\.wait_group\s+)2;", r"\g<1>3;", None),
        "no wait for copies": swap(r"cp\.async\.wait_group\s+\d;", "", None),
        "no wait for the last copies": swap(r"cp\.async\.wait_group\s+0;", "", -1),
        "no barrier after the wait": swap(r"(cp\.async\.wait_group\s+2;\s*)bar\.sync\s+0;", r"\1"),
        "a copy less": halfway(r"^\s*cp\.async\.cg[^;]*;", ""),
        "a group less": swap(r"^\s*cp\.async\.commit_group;", "", -1),
        "a load further on": swap(r"(ld\.global\.v4\.b32 \{[^}]*\}, \[ %rd\d+ \+) 0 \]", r"\1 16 ]"),
        "rows past the end stored": swap(r"@%p\d+ (st\.global)", r"\1", None),
        "one key too many": swap(r"setp\.lt(\.s32\s+%p\d+, %r\d+, %r\d+;)", r"setp.le\1", None),
    },
    ("sm_86/attention-fp16-64-int8", ATTENTION): {
        "8-bit registers of A swapped": swap(A_OF_MMA.replace(r"\S+", r"\S+s8\S+"), r"\1\3, \2"),
        "8-bit registers of B swapped": swap(B_OF_MMA.replace(r"\S+", r"\S+s8\S+"), r"\1\3, \2", -1),
        "bytes in another order": swap(r"0x3340U", "0x4330U"),
        "no barrier": swap(r"^\s*bar\.sync\s+0;", "", None),
    },
    ("sm_90/attention-bf16-64", ATTENTION): {
        "one product more may be in flight": swap(r"(wgmma\.wait_group\.sync\.aligned) 0;", r"\1 1;", None),
        "no proxy fence": swap(r"fence\.proxy\.async\S*;", "", None),
        **{f"no fence before a product {i}": swap(r"wgmma\.fence\.sync\.aligned;", "", i) for i in (0, 1, -1)},
        "no barrier before a product": swap(r"(fence\.proxy\.async\S*;\s*)bar\.sync\s+0;", r"\1"),
        "another swizzle": swap(r"4611686293305294848", "9223372311732682752"),
        "a step too far along k": swap(r"4611686293305294850", "4611686293305294852"),
        "B not transposed": swap(r"(%p\d+, 1, 1), 1;", r"\1, 0;"),
        "one copy more may be in flight": swap(r"(cp\.async\.wait_group\s+)2;", r"\g<1>3;", None),
        "old sums kept": swap(r"(%rd\d+, %rd\d+), 0, 1, 1, 0, 0;", r"\1, 1, 1, 1, 0, 0;", -1),
    },
    ("sm_100/attention-bf16-64", ATTENTION): {
        "no wait for a product": halfway(WAIT_LOOP, r"\1"),
        "a product not committed": halfway(r"@%p\d+ tcgen05\.commit[^;]*;", ""),
        "no wait for stores": halfway(r"tcgen05\.wait::st\S*;", ""),
        "no wait for loads": halfway(r"tcgen05\.wait::ld\S*;", ""),
        "no proxy fence": swap(r"fence\.proxy\.async\S*;", "", None),
        "A a step further": swap(r"\[ (%r\d+) \+ 8 \], (%rd\d+)", r"[ \1 + 16 ], \2", 1),
        "B not transposed": swap(r"\b135333008\b", "135267472", None),
        "halves at the wrong column": swap(r"(tcgen05\.ld\S+16x32bx2\S+ \{[^}]*\}, \[%r\d+ \+ 0\]), 32;", r"\1, 16;"),
        "memory not freed": swap(r"@%p\d+ tcgen05\.dealloc[^;]*;", ""),
        "half the memory": swap(r"(tcgen05\.(?:de)?alloc\S+ \S+), 256;", r"\1, 128;", None),
    },
    ("sm_86/attention-fp16-64-int8", "quantize_tiles_kernel"): {
        "the largest of other lanes": swap(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), (16|8|4),", r"\1, 1,", None),
        "no barrier": swap(r"^\s*bar\.sync\s+0;", "", None),
        "keys past the end": swap(r"setp\.lt(\.s32\s+%p\d+, %r\d+, %r\d+;)", r"setp.le\1", None),
    },
    ("sm_80/attention-fp16-64", "tile_means_kernel"): {
        "a lane too far": swap(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), 8,", r"\1, 4,"),
        "no barrier": swap(r"^\s*bar\.sync\s+0;", ""),
    },
}


@pytest.mark.parametrize(
    ("file", "entry", "name"), [(*where, name) for where, mutants in MUTANTS.items() for name in mutants]
)
def test_mutants_are_noticed(file: str, entry: str, name: str) -> None:
    change = MUTANTS[file, entry][name]
    try:
        result = run(case_of(entry), file, changed=lambda text: change(text) if f".entry {entry}(" in text else text)
    except PtxError as error:
        assert error.instruction is not None and entry in error.place
    else:
        assert not result.right, f"unnoticed, relative L2 {result.error:.2e}"


def case_of(entry: str) -> Case:
    return CASES["routed"] if entry == "tile_means_kernel" else CASE


@pytest.mark.parametrize(("file", "entry"), MUTANTS)
def test_the_same_case_without_a_change_is_right(file: str, entry: str) -> None:
    result = run(case_of(entry), file)
    assert result.right
    assert entry in {shipped.binary(ran.file).entry for ran in result.card.runs}
