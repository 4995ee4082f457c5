"""Ratios, and whether they meet their targets."""

import math

import pytest

from benchmarks import contenders, page, summary
from benchmarks.agenda import OUT_OF_TIME
from benchmarks.contenders import (
    COLREDUCE,
    EAGER,
    FLASH_ATTN_3,
    FLEX,
    OUR_COLUMN_SUMS,
    OUR_ONE_PASS,
    OUR_OUT,
    OUR_SUMS,
    OUR_TWO_PASSES,
    SDPA_CUDNN,
    SDPA_FLASH,
)
from benchmarks.summary import Verdict
from benchmarks.table import Row


def row(contender, ms, n=1024, d=64, direction="forward", mask="full", **rest) -> Row:
    return Row("padded", mask, "float16", d, "16/16", n, 1, n, direction, contender.what, ms, **rest)


def found(rows, beginning) -> Verdict:
    (one,) = [verdict for verdict in summary.verdicts(rows) if verdict.what.startswith(beginning)]
    return one


def test_a_ratio_is_of_the_same_case():
    """The slow case of one is not divided by the fast case of the other."""
    rows = [
        row(OUR_OUT, 1.0), row(OUR_SUMS, 1.6),
        row(OUR_OUT, 10.0, n=4096), row(OUR_SUMS, 18.0, n=4096),
        row(OUR_OUT, 100.0, mask="causal"),  # without its counterpart
        row(OUR_OUT, 1.0, d=128), row(OUR_SUMS, 1.5, d=128),
        row(OUR_OUT, 1.0, n=128), row(OUR_SUMS, 1.05, n=128),
        row(OUR_OUT, 1.0, direction="backward"), row(OUR_SUMS, 1.2, direction="backward"),
    ]  # fmt: skip
    text = "forward with column sums / plain forward"
    at_64 = found(rows, f"{text}, d = 64")
    assert at_64[1:3] == ("", 2)
    assert (at_64.median, at_64.worst, at_64.met) == (pytest.approx(1.7), 1.8, None)
    assert found(rows, f"{text}, d = 128")[1:] == ("≤ 1.67", 1, 1.5, 1.5, 1)
    assert found(rows, f"{text}, n ≤ {summary.FUSED_MAX_SEQLEN}")[1:] == ("≤ 1.1", 1, 1.05, 1.05, 1)
    assert found(rows, "backward with column sums")[1:] == ("≤ 1.25", 1, 1.2, 1.2, 1)


def test_a_speed_up_is_judged_by_its_smallest():
    rows = [
        row(COLREDUCE, 3.0), row(OUR_COLUMN_SUMS, 1.0), row(OUR_SUMS, 2.0),
        row(COLREDUCE, 30.0, n=4096), row(OUR_COLUMN_SUMS, 20.0, n=4096),
    ]  # fmt: skip
    assert found(rows, "flash-colreduce / our second pass")[1:] == ("≥ 2", 2, 2.25, 1.5, 1)
    assert found(rows, "flash-colreduce / our forward")[1:] == ("≥ 2", 1, 1.5, 1.5, 0)


def test_at_64_the_faster_of_cudnn_and_fa3_is_the_measure():
    rows = [
        row(OUR_SUMS, 1.9), row(SDPA_CUDNN, 1.5), row(FLASH_ATTN_3, 1.0),
        row(OUR_SUMS, 20.0, n=4096), row(SDPA_CUDNN, 10.0, n=4096), row(SDPA_FLASH, 1.0, n=4096),
        row(OUR_SUMS, 20.0, n=8192), row(SDPA_FLASH, 10.0, n=8192),  # neither of the two
        row(OUR_SUMS, 20.0, d=128), row(FLASH_ATTN_3, 10.0, d=128),
    ]  # fmt: skip
    verdict = found(rows, "forward with column sums / plain forward of cuDNN or FA3, d = 64")
    assert verdict[1:] == ("≤ 1.94", 2, pytest.approx(1.95), 2.0, 1)
    assert verdict.what.endswith(" (1 to 2 of 2 measured)")


def test_plain_attention_is_held_against_the_best_of_torch():
    rows = [
        row(OUR_OUT, 2.0), row(SDPA_FLASH, 3.0), row(SDPA_CUDNN, 1.5), row(FLASH_ATTN_3, 0.1),
        row(OUR_OUT, 2.0, n=4096), row(SDPA_FLASH, 1.8, n=4096),
        row(OUR_OUT, 2.0, direction="backward"), row(SDPA_CUDNN, 1.0, direction="backward"),
        row(OUR_OUT, 1.0, n=8192), row(FLEX, 9.0, n=8192),  # known to be slow: it says nothing alone
    ]  # fmt: skip
    assert found(rows, "the best of torch / our plain forward").what.endswith(" (1 to 2 of 4 measured)")
    assert found(rows, "the best of torch / our plain backward").what.endswith(" (1 of 4 measured)")
    assert found(rows, "the best of torch / our plain forward")[1:] == ("≥ 0.8", 2, 0.825, 0.75, 1)
    assert found(rows, "the best of torch / our plain backward")[1:] == ("≥ 0.8", 1, 0.5, 0.5, 0)


def test_one_pass_is_held_against_two_at_each_length():
    rows = [
        row(one, ms, n=n)
        for one, times in ((OUR_ONE_PASS, {64: 1.0, 128: 1.0}), (OUR_TWO_PASSES, {64: 2.0, 128: 0.5}))
        for n, ms in times.items()
    ]
    assert found(rows, "one pass / two passes, n = 64").median == 0.5
    assert found(rows, "one pass / two passes, n = 128").median == 2.0
    assert found(rows, "one pass / two passes, n = 256").cases == 0


def test_checks_and_the_step_are_judged_by_their_own_ratios():
    rows = [
        row(OUR_SUMS, None, direction="check", ratio=0.4),
        row(OUR_SUMS, None, direction="check", ratio=math.inf),
        row(OUR_SUMS, None, direction="check", note="failed: it was not to be"),
        row(OUR_SUMS, None, direction="check", note="out of memory"),
        row(OUR_SUMS, None, direction="check", note=OUT_OF_TIME),
        row(OUR_SUMS, 1.0, direction="step", ratio=1.005),
        row(OUR_SUMS, 1.0, direction="step"),
    ]
    checks = found(rows, "checks on the device")
    assert (checks.target, checks.cases, checks.worst, checks.met) == ("≤ 1", 4, math.inf, 1), (
        "no figure, not passed"
    )
    assert "in 1 of 4" in page.text([checks])
    assert found(rows, "step of Mistral-7B")[1:] == ("≤ 1.01", 1, 1.005, 1.005, 1)


def test_peers_are_compared_without_a_target():
    verdict = found([row(OUR_OUT, 2.0), row(SDPA_FLASH, 1.0)], "our plain forward / torch SDPA, flash")
    assert verdict[1:] == ("", 1, 2.0, 2.0, None)


def test_what_was_not_measured_is_said_to_be_so():
    rows = [row(OUR_OUT, 1.0), row(OUR_SUMS, None, note="out of memory")]
    verdict = found(rows, "forward with column sums / plain forward of cuDNN or FA3, d = 64")
    assert verdict[1:] == ("≤ 1.94", 0, None, None, None)
    assert "not measured" in page.text([verdict])


@pytest.mark.parametrize(("contender", "exponent"), [(OUR_SUMS, 1.0), (EAGER, 2.0)])
def test_the_growth_of_memory_is_an_exponent(contender, exponent):
    rows = [
        row(contender, 1.0, n=n, direction="backward", peak_mib=1e-3 * n**exponent) for n in (512, 2048, 8192)
    ]
    # Short sequences do not count, whatever they take.
    rows.append(row(contender, 1.0, n=64, direction="backward", peak_mib=1e6))
    verdict = found(rows, f"peak memory ~ n^x, {contender.what}")
    assert verdict.median == pytest.approx(exponent)
    assert verdict.met == (1 if contender is OUR_SUMS else None)


def test_every_aim_of_the_kernels_is_among_the_targets():
    limits = {ratio.at_most or ratio.at_least for ratio in summary.targets()}
    assert limits == {1.94, 1.67, 1.1, 1.25, 0.8, 2.0, None}
    assert all(contender.what for contender in contenders.OURS)
