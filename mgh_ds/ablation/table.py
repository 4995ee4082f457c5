"""The ablation's table: every score in a folder of finished cells, as JSON and Markdown."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgh_ds.ablation.grid import UNTRAINED
from mgh_ds.ablation.scores import FILE, Scores, differing_keys
from mgh_ds.ablation.statistics import Agreement, Estimate, agreement, estimate, paired_difference
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.score_tables import markdown_table, metric_name

# Places in the paper's ablation, 1 is best; levels 2 and 3 are equal there, and levels 4 and 1 are named
# together. It has no row for `all`.
PAPER = {
    "coarse_to_fine": 1,
    "level-2": 2,
    "level-3": 2,
    "level-4": 4,
    "level-1": 4,
    "random": 6,
    "fine_to_coarse": 7,
}
REFERENCE = "coarse_to_fine"
MEAN = "mean"


def write_table(folder: Path) -> Path | None:
    """Writes `ablation.json` and `ablation.md` into `folder` from the scores there; returns the latter's
    path, or None while there is no scored run."""
    cells = read_cells(folder)
    if not any(_trained(cells)):
        return None
    table = summarise(cells)
    files.write_json(folder / "ablation.json", table)
    files.write_text(folder / "ablation.md", markdown(table))
    return folder / "ablation.md"


def read_cells(folder: Path) -> list[Scores]:
    """The scores of all finished cells in `folder`."""
    return [found for path in sorted(folder.glob(f"*/{FILE}")) if (found := Scores.read(path.parent))]


def check_alike(cells: Sequence[Scores]) -> None:
    """Raises MghError when trained cells differ in more than name, seed, curriculum and pooling: they would
    not be comparable."""
    first, *others = [cell for cell in cells if cell.seed is not None]
    for other in others:
        differing = differing_keys(_fixed(first), _fixed(other))
        if differing:
            raise MghError(
                f"{first.recipe['name']} and {other.recipe['name']} cannot share a table; differing: "
                f"{'; '.join(map(str, differing))}"
            )


def summarise(cells: Sequence[Scores]) -> dict[str, Any]:
    """The whole table as plain data, scores times 100; a row a recipe, by pooling, in the paper's order.

    The mean is over the tasks that every trained cell has.
    """
    trained = _trained(cells)
    tasks = {task: score["metric"] for cell in cells for task, score in cell.tasks.items()}
    common = [task for task in tasks if all(task in cell.tasks for cell in trained)]
    recipe = trained[0].recipe
    by_pooling: dict[str, list[Scores]] = {}
    for cell in cells:
        by_pooling.setdefault(cell.pooling, []).append(cell)
    return {
        "model": recipe["model"]["name_or_path"],
        "layers": recipe["model"]["num_layers"],
        "steps": recipe["training"]["steps"],
        "global_batch": recipe["training"]["global_batch"],
        "tasks": tasks,
        "mean_of": common,
        "poolings": {pooling: _of_pooling(found, common) for pooling, found in by_pooling.items()},
    }


def markdown(table: dict[str, Any]) -> str:
    """The table for readers: a section a pooling."""
    layers = f", its first {table['layers']} layers" if table["layers"] else ""
    lines = [
        "# Ablation",
        "",
        f"{table['model']}{layers}; {table['steps']} steps of {table['global_batch']} records.",
        "Scores times 100: mean over the seeds ± half of its 95 % interval (Student's t). The test sets are",
        "the same throughout, so the interval tells how far seeds differ, not how far other test sets would.",
        "A single seed has none.",
        f"`mean` is over {', '.join(table['mean_of']) or 'no task: none is common to all runs'};",
        f"`difference` is that of the means to `{REFERENCE}`, paired by seed.",
    ]
    for pooling, found in table["poolings"].items():
        lines += ["", f"## Pooling: {pooling}", "", _section(table, found), "", _agreement(found)]
    return "\n".join(lines) + "\n"


def _of_pooling(cells: Sequence[Scores], common: Sequence[str]) -> dict[str, Any]:
    rows: dict[str, list[Scores]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    values = {row: _values(found, common) for row, found in rows.items()}
    untrained = {name: by_seed[None] for name, by_seed in values.pop(UNTRAINED, {}).items()}
    orders = {row: _order(rows[row][0].recipe) for row in values}
    reference = next((values[row].get(MEAN, {}) for row in values if orders[row] == REFERENCE), {})
    entries: list[dict[str, Any]] = [
        {
            "row": row,
            "order": orders[row],
            "paper": PAPER.get(orders[row]),
            "seeds": len(rows[row]),
            "scores": {name: _plain(estimate([*by_seed.values()])) for name, by_seed in values[row].items()},
            "difference": None
            if orders[row] == REFERENCE
            else _plain(paired_difference(values[row].get(MEAN, {}), reference)),
        }
        for row in sorted(values, key=lambda row: (PAPER.get(orders[row], len(PAPER) + 1), row))
    ]
    placed = [entry for entry in entries if entry["paper"] and MEAN in entry["scores"]]
    found = agreement(
        [entry["scores"][MEAN]["mean"] for entry in placed], [entry["paper"] for entry in placed]
    )
    return {"untrained": untrained, "rows": entries, "agreement": _plain(found)}


def _order(recipe: dict[str, Any]) -> str:
    stages = recipe["curriculum"]["stages"]
    return stages if isinstance(stages, str) else "its own stages"


def _values(cells: Sequence[Scores], common: Sequence[str]) -> dict[str, dict[Any, float]]:
    """Task, and `mean` where all of `common` are there, → seed → score times 100."""
    values: dict[str, dict[Any, float]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed or 0):
        found = {task: 100 * score["score"] for task, score in cell.tasks.items()}
        if common and all(task in found for task in common):
            found[MEAN] = sum(found[task] for task in common) / len(common)
        for name, value in found.items():
            values.setdefault(name, {})[cell.seed] = value
    return values


def _plain(value: Estimate | Agreement | None) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)


def _section(table: dict[str, Any], found: dict[str, Any]) -> str:
    names = [*table["tasks"], MEAN]
    titles = [f"{task} ({metric_name(metric)})" for task, metric in table["tasks"].items()]
    header = ["order", "place in the paper", "seeds", *titles, MEAN, "difference"]
    untrained = [f"{found['untrained'][name]:.2f}" if name in found["untrained"] else "" for name in names]
    rows = [[UNTRAINED, "", "", *untrained, ""]]
    for entry in found["rows"]:
        scores = [_cell(entry["scores"].get(name), entry["seeds"]) for name in names]
        place = str(entry["paper"] or "not in it")
        label = entry["row"].removeprefix("ablation-")
        difference = _cell(entry["difference"], entry["seeds"], sign="+")
        rows.append([label, place, str(entry["seeds"]), *scores, difference])
    return markdown_table(header, rows)


def _cell(found: dict[str, Any] | None, seeds: int, sign: str = "") -> str:
    if found is None:
        return ""
    text = f"{found['mean']:{sign}.2f}"
    if found["half_width"] is not None:
        text += f" ± {found['half_width']:.2f}"
    return text if found["seeds"] == seeds else f"{text} ({found['seeds']} of {seeds} seeds)"


def _agreement(found: dict[str, Any]) -> str:
    agreed = found["agreement"]
    if agreed is None:
        return "Too few orders to compare their ranking with the paper's."
    return (
        f"Ranking by `mean` against the paper's places, over {agreed['items']} orders: Kendall's "
        f"τ = {agreed['tau']:.2f} (1 is the same order, −1 the reverse); chance alone gives as much, one way "
        f"or the other, with p = {agreed['p']:.2f}."
    )


def _trained(cells: Sequence[Scores]) -> list[Scores]:
    return [cell for cell in cells if cell.tasks and cell.seed is not None]


def _fixed(cell: Scores) -> dict[str, Any]:
    """What the cells of one table have in common."""
    kept = {
        name: value for name, value in cell.compared().items() if name not in ("name", "seed", "curriculum")
    }
    pooling = {name: value for name, value in kept["model"]["pooling"].items() if name != "method"}
    return kept | {"model": kept["model"] | {"pooling": pooling}}
