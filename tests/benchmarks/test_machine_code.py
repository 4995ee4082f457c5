"""What is read off machine code, on a few lines of it, as `cuobjdump` prints them."""

import pytest

from benchmarks.compiled import Compiled
from benchmarks.machine_code import WGMMA, inner_loops, parsed

SASS = """
        /*0000*/                   MUFU.EX2 R1, R1 ;                                  /* 0x0000000c00007308 */
                                                                                      /* 0x000fe20000010000 */
        /*0010*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;                      /* 0x0000000000007b1d */
        /*0020*/                   FFMA R1, R2, R3, R4 ;                              /* 0x0000000c00007308 */
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR12], RZ, !UPT {first};      /* 0x00 */
        /*0040*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;                    /* 0x0000000c00007308 */
        /*0050*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR12], R24, gsb0 ;            /* 0x00 */
        /*0060*/                   MUFU.EX2 R2, R2 ;                                  /* 0x0000000c00007308 */
        /*0070*/              @!P0 BRA 0x20 ;                                         /* 0x0000000c00007308 */
        /*0080*/               @P1 BRA 0x10 ;                                         /* 0x0000000c00007308 */
        /*0090*/                   BRA 0x90;                                          /* 0x0000000c00007308 */
"""


@pytest.mark.parametrize(("end", "serialised"), [("", False), (", gsb0 ", True)])
def test_the_innermost_loop_is_found_and_counted(end, serialised):
    """Of three loops the one that holds no other and computes exponentials; 8 warps, 2,048 scores a step."""
    (loop,) = inner_loops(parsed(SASS.replace("{first}", end)), scores=[2048], warps=8)
    assert loop.instructions == 6 * 256 / 2048
    assert loop.exponentials == 256 / 2048
    # Two products of 64 × 64 × 16 in each of two warpgroups.
    assert loop.multiplications == 2 * 2 * 64 * 64 * 16 / 2048
    assert loop.wgmma
    assert loop.serialised is serialised
    assert loop.barriers == 0  # that one is outside
    assert loop.overlapped == 1000 * loop.multiplications / WGMMA
    assert loop.serial == loop.overlapped + 1000 * max(loop.instructions / 128, loop.exponentials / 16)


@pytest.mark.parametrize(("exponentials", "scores"), [(9, 2048), (17, 4096)])
def test_a_loop_of_longer_steps_is_told_by_its_exponentials(exponentials, scores):
    """One a score, and one more a row, which rescales it. What is put away within a loop is counted."""
    code = ["STL [R1], R8", *["MUFU.EX2 R1, R1"] * exponentials, "LDL.LU R8, [R1]", "@P0 BRA 0x0"]
    text = "\n".join(f"/*{16 * line:04x}*/ {instruction} ;" for line, instruction in enumerate(code))
    (loop,) = inner_loops(parsed(text), scores=[2048, 4096], warps=8)
    assert loop.exponentials == exponentials * 256 / scores
    assert loop.spills == 2


@pytest.mark.parametrize(("place", "share"), [(0, 0), (1, 0.5), (2, 1)])
def test_a_product_may_be_under_way_from_one_step_to_the_next(place, share):
    """It starts last in a step; its wait stands before the next exponentials, between or behind them."""
    code = [
        "MUFU.EX2 R1, R1",
        "MUFU.EX2 R2, R2",
        "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR12], R24, gsb0",
        "@P0 BRA 0x0",
    ]
    code.insert(place, "WARPGROUP.DEPBAR.LE gsb0, 0x0")
    text = "\n".join(f"/*{16 * line:04x}*/ {instruction} ;" for line, instruction in enumerate(code))
    (loop,) = inner_loops(parsed(text), scores=[2048], warps=8)
    assert loop.during_products == share


def test_products_of_the_older_kind():
    """One warp's 16 × 8 × 16; they wait for nobody in particular."""
    code = "\n".join(
        [
            "/*0000*/ HMMA.16816.F32.BF16 R4, R8, R10, R4 ;",
            "/*0010*/ MUFU.EX2 R1, R1 ;",
            "/*0020*/ @P0 BRA 0x0 ;",
        ]
    )
    (loop,) = inner_loops(parsed(code), scores=[16 * 8 * 4], warps=4)
    assert loop.multiplications == 16
    assert not loop.wgmma
    assert not loop.serialised


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(128, 64 * 1024, 8, 2), (129, 64 * 1024, 8, 1), (64, 113 * 1024, 4, 2), (32, 1024, 32, 2)],
    ids=["two fit", "a register too many", "shared memory", "threads"],
)
def test_programs_on_an_sm_at_once(registers, shared, warps, programs):
    one = Compiled("attention", registers, 0, shared, "wgmma.mma_async", warps)
    assert one.programs_an_sm("sm_90") == programs
