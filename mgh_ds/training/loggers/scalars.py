"""A line of `metrics.jsonl` as numbers with names: the one place that says what loggers call a figure.

{"kind": "step", "loss": 0.4, "levels": {"4": {"accuracy": 0.9}}}    train/loss, train/level_4/accuracy
{"kind": "evaluation", "scores": {"STS17": 0.8}}                      evaluation/STS17
{"kind": "checkpoint", "seconds": 1.5}                               checkpoint/seconds
{"kind": "skipped", "reason": "…"}                                   train/skipped
"""

from collections.abc import Iterator
from typing import Any

GROUPS = {"step": "train"}  # by kind of line; other kinds lend their own name
TABLES = ("scores", "levels", "statistics")  # whose names stand for themselves, without that of the table
NOT_FIGURES = ("kind", "step")


def scalars(entry: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line by their names. Texts, lists and what was not measured (null) have none."""
    kind = entry["kind"]
    if kind == "skipped":
        return {"train/skipped": 1.0}
    figures = {name: value for name, value in entry.items() if name not in NOT_FIGURES}
    return dict(_flat(GROUPS.get(kind, kind), figures))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float):
        yield prefix, float(value)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name == "levels":
                each = {f"level_{level}": figures for level, figures in each.items()}
            yield from _flat(prefix if name in TABLES else f"{prefix}/{name}", each)
