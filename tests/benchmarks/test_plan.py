"""The plan's benchmark measures what it says, here on a small store."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import plan


def test_a_small_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "TASKS", 5)
    monkeypatch.setattr(plan, "STEPS", 12)
    monkeypatch.setattr(plan, "GLOBAL_BATCH", 64)
    monkeypatch.setattr(plan, "WORLD_SIZES", (4, 8))
    plan.main(["--records", "1000", "--rounds", "2", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "plan-cpu.json").read_text())
    assert found["plan"]["index_mb"] == pytest.approx(1000 * 50 / 1e6)
    assert [(row["micro_batch"], row["world_size"]) for row in found["ranks"]] == [
        (size, ranks) for size in (1, 2, 4, 8) for ranks in (4, 8)
    ]
    for row in found["ranks"]:
        assert 1 <= row["assigned"]["mean"] < row["contiguous"]["mean"]
        assert (row["padding"] == 0) == (row["micro_batch"] == 1)
        assert row["padding"] <= row["padding_unsorted"]


def test_tasks_are_of_very_unequal_sizes_and_three_in_eight_records_graded() -> None:
    index = plan.draw_index(20_000)
    sizes = np.sort(np.unique(index.task_hash, return_counts=True)[1])[::-1]
    assert sizes[0] > 100 * np.median(sizes)
    graded = index.level_counts[:, 1:].any(axis=1)
    assert graded.mean() == pytest.approx(3 / 8, abs=0.02)
    assert (graded != (index.level_counts[:, 0] > 0)).all()
