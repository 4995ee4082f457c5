"""The loader's benchmark: its records are valid, and its page says what was found."""

from pathlib import Path

from benchmarks import loader
from mgh_ds.records.store import Store


def test_the_made_up_records_are_valid_and_of_very_unequal_lengths(tmp_path: Path) -> None:
    loader.write_store(tmp_path / "store", 300)
    records = list(Store.open(tmp_path / "store"))  # reading validates what writing did not
    assert len({record.id for record in records}) == 300
    lengths = sorted(len(record.positive) for record in records)
    assert lengths[-1] > 3 * lengths[150]


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    memory = [
        {"step": step, "VmRSS": 300 + step, "RssAnon": 200 + step, "RssFile": 100}
        for step in range(0, 50, 10)
    ]
    wait = {"steps": 9, "seconds": 18.0, "wait_share": 0.0123, "wait_share_after_first_step": 0.0045}
    found = {
        "records": 1000,
        "store_bytes": 10**9,
        "memory": [{"memory": memory, "shards": [{"records": 5000, "bytes": 7 * 10**6, "seconds": 2.5}]}],
        "memory_map": [{"memory": memory}],
        "waiting": [wait],
    }
    loader.publish(tmp_path / "loader-cpu", found)
    text = (tmp_path / "loader-cpu.md").read_text()
    assert "| shards, rank 0 | 310 | 340 | 210 → 240 | 100 → 100 |" in text
    assert "| 0 | 5,000 | 7 | 2.5 |" in text
    assert "| 0 | 9 | 2.00 | 1.23% | 0.45% |" in text
    assert (tmp_path / "loader-cpu.json").exists()
