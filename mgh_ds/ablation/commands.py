"""`mgh-ds ablate`: trains and scores a grid of recipes, poolings and seeds, and writes one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgh_ds.ablation.grid import Cell, make_grid
from mgh_ds.common.errors import MghError

# Only light imports here: what is wrong with a recipe is said before torch is loaded.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds ablate`."""
    parser.description = "Trains every recipe with every pooling and seed, scores all, and writes one table."
    parser.epilog = (
        "--section.key value overrides a key of every recipe, such as --training.steps 100; "
        "mgh-ds config keys prints them all"
    )
    parser.add_argument("configs", metavar="RECIPE", nargs="+", type=Path, help="files or names, a row each")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs a recipe (default: 3)")
    parser.add_argument(
        "--poolings",
        nargs="+",
        metavar="POOLING",
        default=["ata"],
        help="methods; ata may be followed by what becomes of its weights: ata+log1p+first (default: ata)",
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        metavar="KEY",
        default=[],
        help="keys, such as model.bidirectional, in which the recipes may differ besides the curriculum",
    )
    parser.add_argument(
        "--reference",
        metavar="ROW",
        help="the row whose difference to the others is shown, instead of coarse_to_fine; the places in the "
        "paper, which are those of orders, are then left out",
    )
    parser.add_argument(
        "--interpolate",
        nargs="+",
        type=float,
        metavar="A",
        default=[],
        help="for each A a row more a recipe, ROW@A: not trained, but weights between the untrained model's "
        "(0) and the trained one's (1); wants --reference",
    )
    parser.add_argument(
        "--held-out",
        metavar="RECORDS",
        help="graded records, such as mgh:held_out, whose hardest negatives are scored against the positive",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=["STS17", "SICK-R", "SciFact"],
        help="MTEB names (default: STS17 SICK-R SciFact); added ones are scored on runs made before",
    )
    parser.add_argument("--data-dir", type=Path, help="folder with one folder a task; default: the hub")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/ablation"),
        help="parent of the runs (default: runs/ablation)",
    )
    parser.add_argument("--ranks", type=int, default=1, help="processes that train a run (default: 1)")
    parser.set_defaults(call=ablate_command)


def ablate_command(
    configs: list[Path],
    seeds: int,
    poolings: list[str],
    tasks: list[str],
    output: Path,
    data_dir: Path | None = None,
    ranks: int = 1,
    vary: Sequence[str] = (),
    reference: str | None = None,
    held_out: str | None = None,
    interpolate: Sequence[float] = (),
    settings: Sequence[str] = (),
) -> None:
    """Trains every cell that is not finished, scores it on the tasks that it lacks, and after each cell
    writes the table of all scores in `output` to `output/ablation.md` and `.json`.

    Args:
        configs: recipes, a row of the table each.
        seeds: 0 … seeds − 1 are run, a whole round of the grid each.
        poolings: columns of the grid, as in `PoolingChoice`; each overrides what it names of `model.pooling`.
        tasks: MTEB task names, such as STS17 SICK-R SciFact.
        output: parent of the runs.
        data_dir: a folder with one folder a task; without it, data come from the hub.
        ranks: processes that train one cell together.
        vary: keys in which recipes may differ besides the curriculum.
        reference: the row that the others are compared with; None: that of coarse_to_fine.
        held_out: records whose hardest negatives are scored beside the tasks.
        interpolate: shares of what was learnt, for rows between the untrained model and each trained one.
        settings: overrides for every recipe, such as `--training.steps 100`.

    A cell that fails is reported and the others go on. Raises MghError at the end if one failed, and at once
    for a wrong recipe, missing data, or a finished cell that was made from another recipe.
    """
    if ranks < 1:
        raise MghError(f"--ranks is {ranks}; it must be at least 1")
    poolings, tasks = list(dict.fromkeys(poolings)), list(dict.fromkeys(tasks))
    if interpolate and reference is None:
        raise MghError("--interpolate wants --reference: such rows have no place among the paper's orders")
    grid = make_grid(configs, poolings, seeds, output, settings, interpolate)
    _check_names(grid, vary, reference)

    from mgh_ds.ablation.table import write_table
    from mgh_ds.ablation.work import alone_in

    with alone_in(output):
        failures = _work(grid, tasks, data_dir, ranks, vary, reference, held_out)
        table = write_table(output, reference)
    if table is not None:
        print(f"{table.read_text(encoding='utf-8')}\ntable: {table}")
    if failures:
        raise MghError(f"{len(failures)} of {len(grid)} cells failed: {', '.join(failures)}")


def _check_names(grid: Sequence[Cell], vary: Sequence[str], reference: str | None) -> None:
    """Raises MghError for a key that no recipe has, and for a reference that is no row."""
    recipe = grid[0].config.model_dump()
    for key in vary:
        table: Any = recipe
        for part in key.split("."):
            if not isinstance(table, dict) or part not in table:
                raise MghError(f"--vary {key}: recipes have no such key; mgh-ds config keys prints them all")
            table = table[part]
    rows = sorted({cell.row for cell in grid if cell.seed is not None})
    if reference is not None and reference not in rows:
        raise MghError(f"--reference {reference}: the rows are {', '.join(rows)}")


def _work(
    grid: Sequence[Cell],
    tasks: list[str],
    data_dir: Path | None,
    ranks: int,
    vary: Sequence[str],
    reference: str | None,
    held_out: str | None,
) -> list[str]:
    """Runs all cells; returns the names of those that failed."""
    from tqdm import tqdm

    from mgh_ds.ablation.inputs import backbones_of, check_recipes, open_data
    from mgh_ds.ablation.scores import Scores
    from mgh_ds.ablation.scoring import CellScoring
    from mgh_ds.ablation.table import check_alike, read_cells, write_table
    from mgh_ds.ablation.work import run_cell
    from mgh_ds.evaluation.containment import contained_mteb
    from mgh_ds.records.store import open_or_convert

    folder = grid[0].path.parent
    data, backbones = open_data(grid), backbones_of(grid)
    hashes = {name: records.manifest_hash for name, records in data.items()}
    records = None if held_out is None else open_or_convert(held_out, folder / "data")
    with contained_mteb():
        # Said before hours of work, not after: data that are not there, recipes that have changed, losses
        # that learn nothing from their data.
        scoring = CellScoring(tasks, data_dir, records)
        for cell in grid:
            if (scores := Scores.read(cell.path)) is not None:
                scores.check(cell, hashes[cell.name], backbones[cell.name], scoring.revisions)
        planned = [Scores.of(cell, hashes[cell.name], backbones[cell.name]) for cell in grid]
        check_alike([*read_cells(folder), *planned], vary)
        check_recipes([cell for cell in grid if Scores.read(cell.path) is None], data)
        failures = []
        with tqdm(grid, unit="cell", dynamic_ncols=True) as bar:
            for cell in bar:
                try:
                    known = hashes[cell.name], backbones[cell.name]
                    run_cell(cell, *known, scoring, ranks, bar.set_description)
                    write_table(folder, reference)
                except MghError as error:
                    bar.write(f"{cell.name} failed: {error}", file=sys.stderr)
                    failures.append(cell.name)
    return failures
