"""The ablation's table: every score in a folder of finished cells, as JSON and Markdown."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgh_ds.ablation.levels import by_level, level_section
from mgh_ds.ablation.scores import FILE, HARD_NEGATIVES, LEVEL_ORDER, OF_HELD_OUT, Scores, differing_keys
from mgh_ds.ablation.statistics import Agreement, Estimate, agreement, estimate, paired_difference
from mgh_ds.ablation.trade import trade
from mgh_ds.common import files
from mgh_ds.common.charts import figure
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
FREE = ("name", "seed", "curriculum", "interpolate")  # in which rows may differ in any table
MEAN = "mean"


def write_table(folder: Path, reference: str | None = None) -> Path | None:
    """Writes `ablation.json` and `ablation.md` into `folder` from the scores there, each row compared with
    the row `reference` (None: that of coarse_to_fine), and `trade.svg` where there are scores for it; returns
    the table's path, or None while there is no scored run."""
    cells = read_cells(folder)
    if not any(_trained(cells)):
        return None
    table = summarise(cells, reference)
    files.write_json(folder / "ablation.json", table)
    text = markdown(table)
    if panels := trade(cells):
        figure.write(folder / "trade.svg", panels)
        text += "\n![Hard negatives against retrieval, a point a run](trade.svg)\n"
    files.write_text(folder / "ablation.md", text)
    return folder / "ablation.md"


def read_cells(folder: Path) -> list[Scores]:
    """The scores of all finished cells in `folder`."""
    return [found for path in sorted(folder.glob(f"*/{FILE}")) if (found := Scores.read(path.parent))]


def check_alike(cells: Sequence[Scores], vary: Sequence[str] = ()) -> None:
    """Raises MghError when trained cells differ in more than name, seed, curriculum, pooling, share of what
    was learnt and the keys `vary`: they would not be comparable. Cells of one pooling agree in all its
    settings, too."""
    trained = [cell for cell in cells if cell.seed is not None]
    may_differ = {*FREE, *vary}
    if may_differ & {"model.name_or_path", "model.adapters"}:
        may_differ.add("backbone")
    alike: dict[str, Scores] = {}
    for cell in trained:
        for other in (trained[0], alike.setdefault(cell.pooling, cell)):
            ignored = may_differ if other.pooling == cell.pooling else {*may_differ, "model.pooling"}
            differing = [
                found
                for found in differing_keys(other.compared(), cell.compared())
                if not any(found.key == key or found.key.startswith(f"{key}.") for key in ignored)
            ]
            if differing:
                raise MghError(
                    f"{other.recipe['name']} and {cell.recipe['name']} cannot share a table; differing: "
                    f"{'; '.join(map(str, differing))}"
                )


def summarise(cells: Sequence[Scores], reference: str | None = None) -> dict[str, Any]:
    """The whole table as plain data, scores times 100; a row a recipe, by pooling, in the paper's order, or
    where there is a row `reference` that first and the others by name.

    The mean is over the tasks that every trained cell has; what held-out records say is no task.
    """
    trained = _trained(cells)
    tasks = {task: score["metric"] for cell in cells for task, score in cell.tasks.items()}
    common = [
        task for task in tasks if task not in OF_HELD_OUT and all(task in cell.tasks for cell in trained)
    ]
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
        "reference": reference or REFERENCE,
        "are_orders": reference is None,
        "poolings": {pooling: _of_pooling(found, common, reference) for pooling, found in by_pooling.items()},
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
        f"`difference` is that of the means to `{table['reference']}`, paired by seed.",
    ]
    if HARD_NEGATIVES in table["tasks"]:
        lines.append(f"`{HARD_NEGATIVES}`: how many of the hardest lie below the positive; not in the mean.")
    if LEVEL_ORDER in table["tasks"]:
        lines.append(
            f"`{LEVEL_ORDER}`: Kendall's τ of a query's documents against their levels; not in the mean."
        )
    for pooling, found in table["poolings"].items():
        lines += ["", f"## Pooling: {pooling}", "", _section(table, found)]
        if table["are_orders"]:
            lines += ["", _agreement(found)]
        elif len(found["rows"]) > 1:
            lines += [
                "",
                f"Differences to `{table['reference']}`, paired by seed:",
                "",
                _differences(table, found),
            ]
        levels = found["untrained_levels"] | {entry["row"]: entry["levels"] for entry in found["rows"]}
        if any(levels.values()):
            lines += [
                "",
                "Held-out negatives below the positive, and their cosines' mean distance to its:",
                "",
            ]
            lines.append(level_section(levels))
    return "\n".join(lines) + "\n"


def _of_pooling(cells: Sequence[Scores], common: Sequence[str], reference: str | None) -> dict[str, Any]:
    rows: dict[str, list[Scores]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    values = {row: _values(found, common) for row, found in rows.items()}
    untrained = {
        row: {name: by_seed[None] for name, by_seed in values.pop(row).items()}
        for row, found in rows.items()
        if found[0].seed is None
    }
    orders = {row: _order(rows[row][0].recipe) for row in values}
    places = {row: PAPER.get(orders[row]) if reference is None else None for row in values}
    compared = {
        row for row in values if (orders[row] == REFERENCE if reference is None else row == reference)
    }
    theirs = next((values[row] for row in values if row in compared), {})
    entries: list[dict[str, Any]] = [
        {
            "row": row,
            "order": orders[row],
            "paper": places[row],
            "seeds": len(rows[row]),
            "levels": by_level(rows[row]),
            "scores": {name: _plain(estimate([*by_seed.values()])) for name, by_seed in values[row].items()},
            "differences": {
                name: None if row in compared else _plain(paired_difference(by_seed, theirs.get(name, {})))
                for name, by_seed in values[row].items()
            },
        }
        for row in sorted(values, key=lambda row: (places[row] or len(PAPER) + 1, row != reference, row))
    ]
    placed = [entry for entry in entries if entry["paper"] and MEAN in entry["scores"]]
    found = agreement(
        [entry["scores"][MEAN]["mean"] for entry in placed], [entry["paper"] for entry in placed]
    )
    return {
        "untrained": untrained,
        "untrained_levels": {row: by_level(rows[row]) for row in untrained},
        "rows": entries,
        "agreement": _plain(found),
    }


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
    rows = []
    for row, scores in found["untrained"].items():
        known = [f"{scores[name]:.2f}" if name in scores else "" for name in names]
        rows.append([row, "", "", *known, ""])
    for entry in found["rows"]:
        scores = [_cell(entry["scores"].get(name), entry["seeds"]) for name in names]
        place = str(entry["paper"] or "not in it")
        label = entry["row"].removeprefix("ablation-")
        difference = _cell(entry["differences"].get(MEAN), entry["seeds"], sign="+")
        rows.append([label, place, str(entry["seeds"]), *scores, difference])
    if not table["are_orders"]:
        header, rows = (["recipe", *header[2:]], [[row[0], *row[2:]] for row in rows])
    return markdown_table(header, rows)


def _differences(table: dict[str, Any], found: dict[str, Any]) -> str:
    names = [*table["tasks"], MEAN]
    rows = [
        [
            entry["row"],
            *(_cell(entry["differences"].get(name), entry["seeds"], sign="+") for name in names),
        ]
        for entry in found["rows"]
        if entry["row"] != table["reference"]
    ]
    return markdown_table(["recipe", *names], rows)


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
