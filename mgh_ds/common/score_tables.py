"""Tables of scores: how metrics are named, changes signed, and rows written as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

METRICS = {
    "cosine_spearman": "Spearman",
    "map": "MAP",
    "mrr": "MRR",
    "ndcg": "nDCG",
    "v_measure": "V-measure",
}
COMPARISON_HEADER = ["held-out score", "before", "after", "change"]


class Comparison(NamedTuple):
    """One score before and after training, in 0..1."""

    name: str
    before: float
    after: float

    def cells(self) -> list[str]:
        """The row under `COMPARISON_HEADER`, in points (times 100)."""
        points = [f"{100 * score:.2f}" for score in (self.before, self.after)]
        return [self.name, *points, change(100 * (self.after - self.before))]


def metric_name(metric: str) -> str:
    """An MTEB metric as papers write it: "nDCG@10" for ndcg_at_10; others with their blanks back."""
    name, at, cutoff = metric.partition("_at_")
    return METRICS.get(name, name.replace("_", " ")) + (f"@{cutoff}" if at else "")


def change(points: float) -> str:
    """A signed change: +12.50, -0.30, +0.00."""
    return f"{round(points, 2) + 0.0:+.2f}"  # adding zero turns −0.00 into +0.00


def comparisons(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Comparison]:
    """What two evaluations, as plain data, have in common: a row a task, then a row a level of negatives."""
    rows = [
        Comparison(f"{name}, {metric_name(score['metric'])}", score["score"], after["tasks"][name]["score"])
        for name, score in before["tasks"].items()
        if name in after["tasks"]
    ]
    return rows + [
        Comparison(
            f"positive above negatives of level {level}",
            score["accuracy"],
            after["levels"][level]["accuracy"],
        )
        for level, score in before["levels"].items()
        if level in after["levels"]
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table, a line a row; behind the first `text_columns` stand figures, aligned on the right."""
    align = ["---" if column < text_columns else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, align, *rows])
