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
    fast = {"seconds": 1.0, "texts_per_s": 30.0, "mfu": 0.4, "memory_bytes": 5, "wait_share": 0.3}
    slow = {"seconds": 3.0, "texts_per_s": 10.0, "mfu": None, "memory_bytes": 7, "wait_share": 0.1}
    expected = {
        "texts_per_s": 15.0,
        "tokens_per_s": None,
        "padding_saved": None,
        "padding_spent": None,
        "mfu": 0.4,
        "wait_share": pytest.approx(0.15),
        "memory_bytes": 7,
    }
    assert totals([fast, slow]) == expected
    assert set(totals([{"seconds": 1.0}]).values()) == {None}


def test_the_last_line_says_what_a_run_achieved() -> None:
    summary = {"texts_per_s": 1234.5, "tokens_per_s": 98_765.0, "world_size": 2, "mfu": 0.41}
    summary |= {"padding_saved": 0.45, "memory_bytes": 12_340_000_000, "wait_share": 0.021}
    expected = "1,234 texts/s, 98,765 tokens/s on 2 ranks"
    assert closing_line(summary) == f"{expected}, MFU 41 %, 45 % padding saved, 12.3 GB, 2 % waiting"
    unknown = dict.fromkeys(("mfu", "padding_saved", "memory_bytes", "wait_share"))
    assert closing_line(summary | unknown) == f"{expected}, MFU unknown"


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


def test_the_progress_bar_names_the_hardest_level() -> None:
    entry = {
        "loss": 0.41234,
        "levels": {"0": {"accuracy": 1.0}, "4": {"accuracy": 0.87}, "2": {"accuracy": 0.99}},
        "tokens_per_s": 12_345.6,
        "mfu": 0.406,
    }
    expected = "level 4, loss 0.412, level 4 87 %, 12,346 tokens/s, MFU 41 %"
    assert progress("level 4", entry, None) == expected
    assert progress("level 4", entry, 7985.4) == f"{expected}, 2:13:05 left"
    bare = entry | {"levels": {"0": {"accuracy": 1.0}}, "mfu": None}
    assert progress("all", bare, 7.2) == "all, loss 0.412, 12,346 tokens/s, 00:07 left"
