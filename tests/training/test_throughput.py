"""A step's figures from its texts' lengths and the clock, and the time that a run still takes."""

import pytest

from mgh_ds.training.batch import Size
from mgh_ds.training.flops import ModelFlops
from mgh_ds.training.progress import TimeLeft, closing_line, progress, times_due
from mgh_ds.training.throughput import Throughput, peak_memory, totals

FLOPS = ModelFlops(frozen=0, trained=100, attention=0)
WORK = Size.of([[2, 4], [3, 5, 5, 1]])  # 20 tokens in 2 · 4 + 4 · 5 = 28 places


def test_rates_shares_and_utilisation() -> None:
    figures = Throughput(FLOPS, peak=24_000.0, packed=True).figures(WORK, seconds=2.0, wait_seconds=0.5)
    memory = figures.pop("memory_bytes")
    assert memory is not None
    assert 1e7 < memory <= peak_memory()
    assert figures == {
        "texts_per_s": 3.0,
        "tokens_per_s": 10.0,
        "padding_saved": pytest.approx(8 / 28),
        "padding_spent": 0.0,
        "mfu": pytest.approx(6 * 100 * 20 / 2.0 / 24_000.0),
        "wait_seconds": 0.5,
        "wait_share": 0.25,
    }


def test_padding_is_spent_where_batches_are_padded() -> None:
    figures = Throughput(FLOPS, peak=None, packed=False).figures(WORK, seconds=2.0, wait_seconds=0.0)
    assert (figures["padding_saved"], figures["padding_spent"]) == (0.0, pytest.approx(8 / 28))


def test_utilisation_is_unknown_without_a_peak() -> None:
    assert Throughput(FLOPS, peak=None, packed=True).figures(WORK, 1.0, 0.0)["mfu"] is None


def test_a_runs_means_are_over_time_and_leave_out_what_is_unknown() -> None:
    fast = {"kind": "step", "seconds": 1.0, "texts_per_s": 30.0, "mfu": 0.4, "memory_bytes": 5}
    slow = {"kind": "step", "seconds": 3.0, "texts_per_s": 10.0, "mfu": None, "memory_bytes": 7}
    nothing = {"batches": 0.0, "checkpoints": 0.0, "evaluations": 0.0}
    expected = {
        "texts_per_s": 15.0,
        "tokens_per_s": None,
        "padding_saved": None,
        "padding_spent": None,
        "mfu": 0.4,
        "memory_bytes": 7,
        "wait_shares": nothing,
    }
    assert totals([fast, slow]) == expected
    bare = totals([{"kind": "step", "seconds": 1.0}])
    assert bare.pop("wait_shares") == nothing
    assert set(bare.values()) == {None}


def test_what_a_run_waited_for_is_shared_out_over_all_of_its_time() -> None:
    lines = [
        {"kind": "evaluation", "step": 0, "seconds": 2.0},
        {"kind": "step", "seconds": 4.0, "wait_seconds": 0.5},
        {"kind": "skipped", "step": 2},
        {"kind": "checkpoint", "step": 1, "seconds": 90.0, "copy_seconds": 1.0},
        {"kind": "step", "seconds": 9.0, "wait_seconds": 0.3},
        {"kind": "checkpoint", "step": 3, "seconds": 90.0},  # of a release that did not count
    ]
    shares = {"batches": 0.8 / 16, "checkpoints": 1 / 16, "evaluations": 2 / 16}
    assert totals(lines)["wait_shares"] == pytest.approx(shares)


def test_the_last_line_says_what_a_run_achieved() -> None:
    summary = {"texts_per_s": 1234.5, "tokens_per_s": 98_765.0, "world_size": 2, "mfu": 0.41}
    summary |= {"padding_saved": 0.45, "padding_spent": 0.0, "memory_bytes": 12_340_000_000}
    summary |= {"wait_shares": {"batches": 0.021, "checkpoints": 0.0, "evaluations": 0.2}}
    expected = "1,234 texts/s, 98,765 tokens/s on 2 ranks"
    assert closing_line(summary) == (
        f"{expected}, MFU 41 %, 45 % padding saved, 12.3 GB, waited for batches 2 %, evaluations 20 %"
    )
    unknown = dict.fromkeys(("mfu", "padding_saved", "padding_spent", "memory_bytes"))
    assert closing_line(summary | unknown | {"wait_shares": {}}) == f"{expected}, MFU unknown"


def test_the_time_left_holds_what_is_still_to_come() -> None:
    left = TimeLeft()
    assert left.seconds(steps=10, checkpoints=1) is None, "nothing is known yet"
    left.step(2.0)
    left.step(4.0)
    assert left.seconds(steps=10, checkpoints=5) == 30.0, "no copy was seen yet"
    left.copy(1.0)
    assert left.seconds(steps=10, checkpoints=5) == 35.0
    assert left.seconds(steps=10, checkpoints=5, evaluations=2, evaluation_seconds=7.0) == 49.0
    assert left.seconds(steps=10, checkpoints=5, evaluations=2) == 35.0
    assert left.seconds(steps=0, checkpoints=0) == 0.0


def test_the_pace_is_that_of_late() -> None:
    left = TimeLeft()
    for seconds in [100.0, *[1.0] * 50]:
        left.step(seconds)
    assert left.seconds(steps=3, checkpoints=0) == 3.0


@pytest.mark.parametrize("last", [6, 8])
@pytest.mark.parametrize("every", [1, 3, 4, 50])
def test_what_is_due_is_counted(last: int, every: int) -> None:
    for step in range(last):
        due = [at for at in range(step + 1, last + 1) if at % every == 0 or at == last]
        assert times_due(step, last, every) == len(due)


def test_the_progress_bar_says_it_all_and_the_essential_first() -> None:
    easy, hard = {"accuracy": 1.0, "margin": 0.31}, {"accuracy": 0.87, "margin": 0.0416}
    entry = {
        "loss": 0.41234,
        "levels": {"0": easy, "4": hard, "2": easy},
        "texts_per_s": 432.1,
        "tokens_per_s": 12_345.6,
        "padding_saved": 0.0,
        "padding_spent": 0.305,
        "mfu": 0.406,
        "memory_bytes": 2_340_000_000,
        "wait_share": 0.018,
        "grad_norm": 1.2345,
    }
    rates = "432 texts/s, 12,346 tokens/s"
    rest = "30 % padding spent, 2.3 GB, 2 % waiting, gradient 1.23"
    left = "2:13:05 left"
    assert progress("level 4", entry, 7985.4) == (
        f"level 4, loss 0.412, {left}, level 4 87 % by +0.042, {rates}, MFU 41 %, {rest}"
    )
    bare = entry | {"levels": {"0": easy}, "mfu": None}
    assert progress("all", bare, None) == f"all, loss 0.412, {rates}, {rest}"
