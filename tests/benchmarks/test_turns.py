"""Contenders take turns, each in a process of its own."""

import pytest

from benchmarks.turns import take_turns
from mgh_ds.common.errors import MghError

WORKER = "tests.benchmarks.turns_worker"
THREE = ("anna", "bert", "carl")


def test_they_go_first_by_turns(tmp_path):
    turns = take_turns(WORKER, {"rounds": 3}, tmp_path, 1, THREE, {"MOOD": "good"})
    assert (
        tmp_path / "order"
    ).read_text() == "abc" + "abc" + "cba"  # the first round loads, and counts nowhere
    assert list(turns) == list(THREE)
    for reports in turns.values():
        assert [(report["threads"], report["mood"]) for report in reports] == [("1", "good")] * 3
        assert all(report["seconds"] >= 0 for report in reports)


def test_one_that_fails_is_named_with_its_last_words(tmp_path):
    with pytest.raises(MghError, match=r"(?s)bert failed:.*the paper jams"):
        take_turns(WORKER, {"rounds": 2, "fails": "bert"}, tmp_path, 1, THREE)
