"""Hard negatives against retrieval, a point a run."""

from pathlib import Path
from typing import Any

import pytest

from mgh_ds.ablation.scores import Scores
from mgh_ds.ablation.table import write_table
from mgh_ds.ablation.trade import trade

METRICS = {
    "SciFact": "ndcg_at_10",
    "XQuAD": "ndcg_at_10",
    "STS17": "cosine_spearman",
    "HardNegatives": "accuracy",
}
RECIPE = {
    "model": {"name_or_path": "model", "num_layers": None},
    "training": {"steps": 60, "global_batch": 32},
    "curriculum": {"stages": "all"},
}


def cell(row: str, seed: int | None, pooling: str = "ata", **tasks: float) -> Scores:
    found: Any = {
        task: {"metric": METRICS[task], "score": score, "revision": "1"} for task, score in tasks.items()
    }
    return Scores(row, pooling, seed, RECIPE, "hash", found)


CELLS = [
    cell("untrained", None, SciFact=0.6, XQuAD=0.8, STS17=0.7, HardNegatives=0.2),
    cell("plain", 0, SciFact=0.5, XQuAD=0.8, HardNegatives=0.3),
    cell("plain", 1, SciFact=0.5, XQuAD=0.7, HardNegatives=0.4),
    cell("listwise", 0, SciFact=0.6, XQuAD=0.9, HardNegatives=0.25),
    cell("plain", 0, "mean", SciFact=0.5, HardNegatives=0.3),
]


def test_a_point_a_run_and_a_line_at_the_untrained_models_height() -> None:
    ata, mean = trade(CELLS)
    assert ata.y_label == "nDCG@10 × 100, SciFact", "XQuAD is not common to all, STS17 is no retrieval"
    assert list(ata.lines) == ["untrained", "plain", "listwise"]
    assert ata.lines["plain"] == [pytest.approx((30, 50)), pytest.approx((40, 50))]
    assert (ata.levels, mean.levels) == (["untrained"], [])
    [panel] = trade(CELLS[:4])
    assert panel.y_label.endswith("SciFact, XQuAD")
    assert panel.lines["untrained"] == [pytest.approx((20, 70))]


def test_it_is_drawn_beside_the_table_where_there_are_scores_for_it(tmp_path: Path) -> None:
    for number, scores in enumerate(CELLS[:4]):
        (tmp_path / str(number)).mkdir()
        scores.write(tmp_path / str(number))
    table = write_table(tmp_path, "plain")
    assert table is not None
    assert "](trade.svg)" in table.read_text()
    svg = (tmp_path / "trade.svg").read_text()
    assert svg.count('<circle class="dot') == 4 + 3, "the runs, and the rows in the legend"
    assert svg.count('<path class="faint') == 1

    without = [cell("plain", 0, STS17=0.5, HardNegatives=0.3), cell("plain", 0, SciFact=0.5)]
    assert [trade([found]) for found in without] == [[], []]
