"""The measurement of gathering, end to end on a tiny size. That ranks receive what the arithmetic says:
tests/losses/test_gather.py."""

import json

from benchmarks import gather
from benchmarks.gather import Way
from benchmarks.timing import MIB
from mgh_ds.losses.info_nce import BLOCK


def test_real_ranks_are_measured():
    peak = gather._peak_mib(Way("ring", False), 512, 64, 2, BLOCK)
    assert peak > gather.held_bytes(Way("ring", False), 256, 4, 64, 2, BLOCK) / MIB


def test_the_file_holds_what_was_measured_and_what_is_computed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gather, "_peak_mib", lambda *_: 1.0)
    assert gather.main(["--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gather-cpu.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == found
    assert {"date", "device", "threads", "torch"} <= found["environment"].keys()
    assert {row["peak_mib"] for row in found["measured"]} == {1.0}
    assert {row["peak_mib"] for row in found["computed"]} == {None}
    whole, ring = (
        {
            row["ranks"]: row
            for row in found["computed"]
            if row["gather"] == way and not row["own_negatives_only"]
        }
        for way in ("whole", "ring")
    )
    assert whole.keys() == ring.keys() == {64, 256, 1024}
    for ranks, row in ring.items():
        assert row["held_mib"] < whole[ranks]["held_mib"] / 20
        assert row["received_mib"] < 1.51 * whole[ranks]["received_mib"]


def test_a_rank_alone_receives_nothing():
    for way in ("whole", "ring"):
        assert gather.received_bytes(Way(way, False, symmetric=True), 8, 2, 16, 1) == 0
