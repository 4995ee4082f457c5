"""Evaluation results as tables: Markdown for files, rich for terminals. Scores are shown times 100."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from mgh_ds.evaluation.results import EvaluationResult

PUBLISHED = {
    "STS17": 87.59,
    "SICK-R": 77.58,
    "SciFact": 64.51,
    "XQuADRetrieval": 94.36,
    "Banking77Classification": 80.04,
}
"""What MTEB publishes for sentence-transformers/all-MiniLM-L6-v2 (mean pooling, 256 tokens, English subsets).

Source: the leaderboard's data (https://github.com/embeddings-benchmark/results, mteb 1.12.75);
SciFact from its table.
"""

METRICS = {
    "ndcg_at_10": "nDCG@10",
    "map_at_1000": "MAP",
    "cosine_spearman": "Spearman",
    "accuracy": "accuracy",
}


def published(result: EvaluationResult) -> dict[str, float]:
    """The published figures that `result` can be held against: those of the same model and settings."""
    comparable = (
        result.model.rstrip("/").endswith("all-MiniLM-L6-v2")
        and result.pooling == "mean"
        and result.settings.get("max_length") == 256
        and not result.settings.get("instructions")
    )
    return {task: PUBLISHED[task] for task in result.tasks if task in PUBLISHED} if comparable else {}


def results_table(result: EvaluationResult) -> Table:
    """One row a task, for the terminal."""
    return _rich(f"{result.model}, {result.pooling} pooling", *_results_cells(result))


def results_markdown(result: EvaluationResult) -> str:
    """The same as Markdown, with what the figures depend on."""
    settings = result.settings
    lines = [
        f"# {result.model}",
        "",
        f"Pooling {result.pooling}, at most {settings.get('max_length')} tokens, "
        f"instructions {'on' if settings.get('instructions') else 'off'}; "
        + ", ".join(f"{name} {version}" for name, version in settings.get("versions", {}).items())
        + ".",
        "",
        _markdown(*_results_cells(result)),
    ]
    return "\n".join(lines)


def comparison_table(before: EvaluationResult, after: EvaluationResult) -> Table:
    """Before, after and change: a row a task, then a row a negative level, for the terminal."""
    return _rich(None, *_comparison_cells(before, after))


def comparison_markdown(before: EvaluationResult, after: EvaluationResult) -> str:
    """The same as Markdown."""
    return _markdown(*_comparison_cells(before, after))


class _Row(NamedTuple):
    name: str
    before: float
    after: float


def _results_cells(result: EvaluationResult) -> tuple[list[str], list[list[str]]]:
    anchors = published(result)
    header = ["task", "metric", "score", *(["published", "difference"] if anchors else [])]
    rows = []
    for name, task in result.tasks.items():
        subsets = [subset for subset in task.get("subsets", []) if subset != "default"]
        score = 100 * task["score"]
        row = [
            f"{name} ({', '.join(subsets)})" if subsets else name,
            METRICS.get(task["metric"], task["metric"]),
        ]
        row.append(f"{score:.2f}")
        if anchors:
            anchor = anchors.get(name)
            row += ["–", "–"] if anchor is None else [f"{anchor:.2f}", _change(score - anchor)]
        rows.append(row)
    return header, rows


def _comparison_cells(before: EvaluationResult, after: EvaluationResult) -> tuple[list[str], list[list[str]]]:
    rows = [
        _Row(
            f"{name}, {METRICS.get(task['metric'], task['metric'])}",
            task["score"],
            after.tasks[name]["score"],
        )
        for name, task in before.tasks.items()
        if name in after.tasks
    ]
    rows += [
        _Row(f"positive above negatives of level {level}", score["accuracy"], after.levels[level]["accuracy"])
        for level, score in before.levels.items()
        if level in after.levels
    ]
    cells = [
        [
            row.name,
            f"{100 * row.before:.2f}",
            f"{100 * row.after:.2f}",
            _change(100 * (row.after - row.before)),
        ]
        for row in rows
    ]
    return ["held-out score", "before", "after", "change"], cells


def _change(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"  # adding zero turns −0.00 into +0.00


def _rich(title: str | None, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in header:
        table.add_column(
            column, justify="left" if column in ("task", "metric", "held-out score") else "right"
        )
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---" if column in ("task", "metric", "held-out score") else "---:" for column in header]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [header, align, *rows])
