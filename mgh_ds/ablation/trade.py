"""What a recipe buys and what it pays: hard negatives against retrieval, a point a run."""

from collections.abc import Sequence

from mgh_ds.ablation.scores import HARD_NEGATIVES, Scores
from mgh_ds.common.charts.figure import Panel

RETRIEVAL = "ndcg_at_10"  # mteb's name of the metric by which a task is one of retrieval


def trade(cells: Sequence[Scores]) -> list[Panel]:
    """A panel a pooling: how many of the hardest negatives lie below the positive, and the mean over the
    retrieval tasks that all cells have. A line goes across at the height of an untrained model: what lies
    under it has lost retrieval. No panel without such a task or without held-out records."""
    scored = [cell for cell in cells if HARD_NEGATIVES in cell.tasks]
    tasks = _retrieval_of_all(scored)
    if not tasks:
        return []
    return [
        Panel(
            title=f"Pooling: {pooling}",
            x_label="hardest negatives below the positive, %",
            y_label=f"nDCG@10 × 100, {', '.join(tasks)}",
            lines=_rows(found, tasks),
            scattered=True,
            levels=sorted({cell.row for cell in found if cell.seed is None}),
        )
        for pooling in dict.fromkeys(cell.pooling for cell in scored)
        for found in [[cell for cell in scored if cell.pooling == pooling]]
    ]


def _retrieval_of_all(cells: Sequence[Scores]) -> list[str]:
    names = dict.fromkeys(
        task for cell in cells for task, score in cell.tasks.items() if score["metric"] == RETRIEVAL
    )
    return [task for task in names if all(task in cell.tasks for cell in cells)]


def _rows(cells: Sequence[Scores], tasks: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    rows: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        hard = cell.tasks[HARD_NEGATIVES]["score"]
        retrieval = sum(cell.tasks[task]["score"] for task in tasks) / len(tasks)
        rows.setdefault(cell.row, []).append((100 * hard, 100 * retrieval))
    return rows
