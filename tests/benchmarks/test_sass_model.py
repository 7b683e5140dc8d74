"""The speed model: reading machine code, units, and the replay of loops whose cycles are known."""

from dataclasses import replace

import pytest

from benchmarks.kernels import sass_cards, sass_parsing
from benchmarks.kernels.sass_cards import CARDS
from benchmarks.kernels.sass_model import programs_at_once
from benchmarks.kernels.sass_parsing import Instruction
from benchmarks.kernels.sass_replay import Replay
from benchmarks.kernels.sass_tables import mean_and_spread
from benchmarks.kernels.sass_units import Step, Tile, steps, unit_cycles

CARD = CARDS["RTX 4090"]
TILE = Tile(rows=128, keys=64, head_dim=128)
LISTING = """
.text.some_kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;      /* 0x00000a00ff017b82 */
                                                               /* 0x000fe20000000800 */
.L_x_0:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;  /* 0x0000000402047981 */
                                                               /* 0x000ea8000c1e1d00 */
.L_x_1:
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;  /* 0x000000060408723c */
                                                               /* 0x004ff00000041808 */
        /*0030*/              @!P0 BRA `(.L_x_1) ;             /* 0xfffffffc00f88947 */
                                                               /* 0x000fea000383ffff */
        /*0040*/               @P1 BRA `(.L_x_0) ;             /* 0xfffffff800f40947 */
                                                               /* 0x000fea000383ffff */
        /*0050*/                   EXIT ;                      /* 0x000000000000794d */
                                                               /* 0x000fea0003800000 */
.L_x_2:
        /*0060*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;  /* 0x000000060408723c */
                                                               /* 0x004ff00000041808 */
        /*0070*/                   BRA `(.L_x_1) ;             /* 0xfffffff800f00947 */
                                                               /* 0x000fea000383ffff */
"""


def instruction(text: str, stall: int = 1, done: int = 7, read: int = 7, waits: tuple[int, ...] = ()) -> Instruction:
    return Instruction(text, "", stall, True, done, read, waits)


def cycles(body: list[Instruction], warps: int = 8, programs: int = 1) -> float:
    """Of a loop of these instructions."""
    found = steps([".L_x", *body, instruction("BRA `(.L_x)")], CARD, TILE)
    return Replay(found, CARD, warps, programs).cycles()


MMA = instruction("HMMA.16816.F32.BF16 R8, R4, R6, R8")


def test_control_codes_are_read():
    load, product, branch, *_ = sass_parsing.instructions(sass_parsing.parse(LISTING))[1:]
    assert (load.name, load.base, load.stall, load.sets_done, load.waits) == ("LDG.E.128", "LDG", 4, 2, ())
    assert (product.stall, product.waits, product.sets_done, product.keep) == (8, (2,), 7, True)
    assert (branch.predicate, branch.target) == ("@!P0", ".L_x_1")


def test_the_main_loop_is_the_innermost_one_with_products():
    code = sass_parsing.parse(LISTING)
    assert len(sass_parsing.loops(code)) == 2, "the jump from behind the end is a wait"
    assert sass_parsing.counts(sass_parsing.main_loop(code)) == {"HMMA": 1, "BRA": 1}
    with pytest.raises(ValueError, match="no loop with matrix products"):
        sass_parsing.main_loop(code[:2])


def test_matrix_products_take_what_the_card_gives():
    """16 x 8 x 16 multiply-adds on a quarter of 256 a clock are 32 cycles; two warps share each of four schedulers."""
    (step,) = steps([MMA], CARD, TILE)
    assert (step.unit, step.cost) == ("matrix", 32)
    assert unit_cycles([step] * 10, CARD, 8)["matrix products"] == 640
    assert cycles([MMA] * 10) == pytest.approx(640, rel=0.01)


def test_a_latency_shows_with_one_warp_for_each_scheduler_and_hides_behind_others():
    loop = [instruction("LDG.E R4, desc[UR4][R2.64]", done=0), instruction("FADD R5, R4, R4", waits=(0,))]
    alone, crowded = cycles(loop, warps=4), cycles(loop, warps=4, programs=4)
    assert alone == pytest.approx(sass_cards.GLOBAL, rel=0.1)
    assert crowded == pytest.approx(alone / 4, rel=0.1)


def test_a_barrier_holds_warps_until_the_last_one():
    add, barrier = instruction("FADD R4, R4, R4"), instruction("BAR.SYNC.DEFER_BLOCKING 0x0")
    assert cycles([add] * 4, warps=4) < sass_cards.BARRIER
    assert 4 * sass_cards.BARRIER < cycles([add, barrier] * 4, warps=4) < 6 * sass_cards.BARRIER


def test_a_wait_for_what_never_comes_is_an_error():
    loop = [instruction("SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R3"), instruction("UTCBAR [UR4], URZ")]
    waiting = steps([".L_x", *loop, instruction("BRA `(.L_x)")], CARDS["B200"], TILE)
    replay = Replay(waiting, CARDS["B200"], 4, 1)
    replay.commits = {0: (1, 0)}
    with pytest.raises(RuntimeError, match="no warp"):
        replay.cycles()


@pytest.mark.parametrize(
    ("text", "card", "unit", "cost"),
    [
        ("MUFU.EX2 R4, R4", "RTX 4090", "special", 8),
        ("I2F R4, R4", "A100", "special", 8),
        ("FFMA R4, R4, R4, R4", "A100", "fma", 2),
        ("FFMA R4, R4, R4, R4", "H100", "fma", 1),
        ("IMAD R4, R4, R4, R4", "H100", "fma_half", 2),
        ("LDSM.16.MT88.4 R4, [R4]", "A100", "shared", 4),
        ("IMMA.16832.S8.S8 R4, R4.ROW, R6.COL, R8", "A100", "matrix", 8),
        ("HMMA.16816.F16 R4, R4, R6, R8", "RTX 4090", "matrix", 16),
        ("HGMMA.64x128x16.F32.BF16 R24, R24, gdesc[UR8], R24, gsb0", "H100", "wgmma", 64),
        ("UTCHMMA gdesc[UR8], gdesc[UR10], tmem[UR12], tmem[UR14], idesc[UR15], !UPT", "B200", "tcgen05", 48),
    ],
)
def test_an_instruction_takes_its_unit(text: str, card: str, unit: str, cost: float):
    (step,) = steps([instruction(text)], CARDS[card], TILE)
    assert (step.unit, step.cost) == (unit, cost)


def test_registers_and_shared_memory_limit_programs():
    assert programs_at_once(CARD, registers=128, shared=40_000, warps=8) == 2
    assert programs_at_once(CARD, registers=129, shared=40_000, warps=8) == 1
    assert programs_at_once(CARD, registers=64, shared=60_000, warps=8) == 1


def test_every_architecture_has_its_card():
    assert {card.arch for card in CARDS.values()} == {*sass_cards.SHIPPED_CARDS}
    assert all(CARDS[name].arch == arch for arch, name in sass_cards.SHIPPED_CARDS.items())


def test_a_faster_card_is_predicted_faster():
    found = steps([".L_x", *[MMA] * 4, instruction("BRA `(.L_x)")], replace(CARD, fp32_sums=512), TILE)
    assert isinstance(found[1], Step) and Replay(found, CARD, 8, 1).cycles() == pytest.approx(128, rel=0.02)


def test_the_mean_is_of_ratios():
    mean, spread = mean_and_spread([0.5, 2.0])
    assert (mean, spread) == pytest.approx((1.0, 1.0))
