"""What becomes of each level of the held-out negatives: how many lie below the positive, and how far."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from mgh_ds.ablation.scores import HARD_NEGATIVES, Scores
from mgh_ds.ablation.statistics import estimate
from mgh_ds.common.score_tables import markdown_table

Levels = dict[str, dict[str, dict[str, Any]]]
"""Level → accuracy and margin, times 100, as estimates."""


def by_level(cells: Sequence[Scores]) -> Levels:
    """Over the cells, which are the seeds of a row; empty where none was scored by level."""
    scores = [cell.tasks[HARD_NEGATIVES] for cell in cells if HARD_NEGATIVES in cell.tasks]
    found = [score["levels"] for score in scores if "levels" in score]
    return {
        level: {
            "accuracy": _estimate(levels[level]["accuracy"] for levels in found),
            "margin": _estimate(levels[level]["margin"] for levels in found),
        }
        for level in sorted(set.intersection(*map(set, found)) if found else ())
    }


def _estimate(values: Iterable[float]) -> dict[str, Any]:
    return dataclasses.asdict(estimate([100 * value for value in values]))


def level_section(rows: dict[str, Levels]) -> str:
    """A row a recipe, in Markdown: of each level its accuracy, and its margin."""
    known = sorted({level for levels in rows.values() for level in levels})
    titles = [f"level {level}" for level in known]
    header = ["recipe", *titles, *(f"{title}, margin" for title in titles)]
    return markdown_table(
        header,
        [
            [row, *(_cell(levels.get(level), name) for name in ("accuracy", "margin") for level in known)]
            for row, levels in rows.items()
            if levels
        ],
    )


def _cell(found: dict[str, dict[str, Any]] | None, name: str) -> str:
    if found is None:
        return ""
    figure = found[name]
    text = f"{figure['mean']:.1f}"
    return text if figure["half_width"] is None else f"{text} ± {figure['half_width']:.1f}"
