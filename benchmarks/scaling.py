"""Training past this machine: collectives measured here, and a step projected for 1 to 128 nodes of GPUs.

    python -m benchmarks.scaling            # a few minutes; writes scaling-cpu.json, .md and .svg
    python -m benchmarks.scaling --quick    # under a minute: fewer sizes, ranks and repetitions

MEASURED: collectives over gloo between processes of this machine, by size and number of ranks; latency and
bandwidth fitted to some of them and checked on the others; the curriculum's plan. PROJECTION: a step of
Mistral-7B with LoRA on nodes of 8 GPUs, from stated assumptions; each is an option. No GPU is measured.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import environment, scaling_gloo, scaling_page
from benchmarks.scaling_costs import GLOO, Check, Link, Sample, check, fit
from benchmarks.scaling_model import Shapes
from benchmarks.scaling_plan import measure_plan
from benchmarks.scaling_projection import (
    NODES,
    Assumptions,
    project,
    project_checkpoint,
    project_exchanges,
)
from mgh_ds.common.errors import MghError

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")
MACHINE = ("date", "device", "cores", "threads", "load", "python", "torch")
BYTES = 960  # the smallest message: whole floats for 2, 3 and 4 ranks, as are its multiples


class Grid(NamedTuple):
    """What is measured. Sizes are bytes; those held out, and the last number of ranks, take no part in the
    fit."""

    ranks: tuple[int, ...]
    sizes: tuple[int, ...]
    held_out: tuple[int, ...]
    repetitions: int
    records: int  # of the plan


FULL = Grid(
    ranks=(2, 3, 4),
    sizes=tuple(BYTES * 4**i for i in range(8)),  # to 15 MiB
    held_out=tuple(BYTES * 2 * 16**i for i in range(4)),
    repetitions=30,
    records=2_400_000,
)
QUICK = Grid(
    ranks=(2, 3),
    sizes=(BYTES, BYTES * 64, BYTES * 1024),
    held_out=(BYTES * 16,),
    repetitions=5,
    records=50_000,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = vars(_parser().parse_args(arguments))
    quick, output = options.pop("quick"), options.pop("output")
    try:
        given = Assumptions(**options)
    except MghError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    grid, name = (QUICK, "scaling-cpu-quick") if quick else (FULL, "scaling-cpu")
    before = environment.describe(CPU)["load"]
    plan = measure_plan(grid.records)
    samples = measure(grid)
    links, checks = evaluate(samples, grid)
    described = environment.describe(CPU)
    measured = scaling_page.Measured(
        machine={key: described[key] for key in MACHINE}
        | {"load before": before, "back end": "gloo over the loopback interface"},
        plan=plan,
        samples=samples,
        links=links,
        checks=checks,
    )
    scaling_page.publish(output / name, measured, make_projection(Shapes(), given))
    print(f"{output / name}: .json, .md and .svg are written")
    return 0


def make_projection(shapes: Shapes, given: Assumptions) -> scaling_page.Projection:
    """Every table of the projection."""
    return scaling_page.Projection(
        shapes=shapes,
        given=given,
        steps=list(project(shapes, given)),
        exchanges=[each for nodes in NODES for each in project_exchanges(shapes, given, nodes)],
        checkpoints=[project_checkpoint(shapes, given, nodes) for nodes in NODES],
    )


def measure(grid: Grid) -> list[Sample]:
    """Every collective, size and number of ranks of the grid."""
    samples = []
    sizes = sorted(grid.sizes + grid.held_out)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        for ranks in grid.ranks:
            task = progress.add_task(f"{ranks} ranks", total=len(sizes) * len(GLOO))
            for sample in scaling_gloo.measure(ranks, sizes, grid.repetitions):
                samples.append(sample)
                progress.advance(task)
    return samples


def evaluate(samples: Sequence[Sample], grid: Grid) -> tuple[dict[str, Link], list[Check]]:
    """α and β of each collective, and how far they are off: where they were fitted, and where not."""
    links, checks = {}, []
    *fitted_ranks, held_out_ranks = grid.ranks
    for name, algorithm in GLOO.items():
        mine = [sample for sample in samples if sample.collective == name]
        known = [sample for sample in mine if sample.ranks in fitted_ranks]
        inside = [sample for sample in known if sample.bytes in grid.sizes]
        outside = [sample for sample in known if sample.bytes in grid.held_out]
        links[name] = fit(algorithm, inside)
        for part, what in (
            (inside, "fitted"),
            (outside, "held-out sizes"),
            ([s for s in mine if s.ranks == held_out_ranks], f"held-out ranks ({held_out_ranks})"),
        ):
            checks.append(check(links[name], algorithm, part, what))
    return links, checks


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, ranks and repetitions")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    for field in dataclasses.fields(Assumptions):
        kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": field.type}
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", default=field.default, help=field.metadata["what"], **kind
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
