"""The result files of `benchmarks.scaling`: what was MEASURED, and apart from it what is PROJECTION."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import page, plot
from benchmarks.plot import Panel
from benchmarks.scaling_costs import Check, Link, Sample
from benchmarks.scaling_gathers import OPTIONS
from benchmarks.scaling_model import Shapes
from benchmarks.scaling_projection import (
    GLOBAL_BATCHES,
    NEGATIVES,
    Assumptions,
    Checkpoint,
    Exchange,
    Memory,
    Step,
)
from mgh_ds.common import files

ABOUT = (
    "Written by `python -m benchmarks.scaling`. MEASURED figures are of this machine's processors, over "
    "gloo. Everything headed PROJECTION follows from the assumptions listed below; **no GPU and no network "
    "between machines was measured**. [docs/scaling.md](../../docs/scaling.md) has the formulas and what "
    "they leave out."
)
FITS = (
    "α and β of each collective, fitted to the smaller numbers of ranks without the held-out sizes. Where a "
    "collective adds numbers, β contains the adding. Errors are |predicted / measured − 1|."
)
STEP_NOTE = (
    "`comm.` is all communication of a step, with the pool gathered in each of the four ways; nothing "
    "overlaps. Step, communication, efficiency (records a second and GPU, one node = 1) and memory are those "
    "of `whole`. A rank with a single micro-batch needs no first pass, which is why efficiency can exceed 1."
)


@dataclass(frozen=True)
class Measured:
    """What this machine did."""

    machine: Mapping[str, str]
    plan: Mapping[str, float]
    samples: Sequence[Sample]
    links: Mapping[str, Link]
    checks: Sequence[Check]


@dataclass(frozen=True)
class Projection:
    """What other machines would do, under assumptions."""

    shapes: Shapes
    given: Assumptions
    steps: Sequence[Step]
    exchanges: Sequence[Exchange]
    checkpoints: Sequence[Checkpoint]


def publish(path: Path, measured: Measured, projection: Projection) -> None:
    """Writes `path` with the endings json, svg and md."""
    json_file, svg_file, md_file = (path.with_name(f"{path.name}.{kind}") for kind in ("json", "svg", "md"))
    files.write_json(json_file, _as_json(measured, projection))
    plot.write(svg_file, list(_panels(projection.steps)))
    parts = ["# Scaling", ABOUT, *_measured(measured), *_projected(projection)]
    parts += [
        f"All figures: [{json_file.name}]({json_file.name}).",
        f"![Plot of the PROJECTION]({svg_file.name})",
    ]
    files.write_text(md_file, "\n\n".join(parts) + "\n")


def _as_json(measured: Measured, projection: Projection) -> dict[str, Any]:
    return {
        "MEASURED": {
            "machine": dict(measured.machine),
            "plan": dict(measured.plan),
            "fits": {name: link._asdict() for name, link in measured.links.items()},
            "checks": [each._asdict() for each in measured.checks],
            "collectives": [sample._asdict() for sample in measured.samples],
        },
        "PROJECTION": {
            "assumptions": dataclasses.asdict(projection.given),
            "model": dataclasses.asdict(projection.shapes) | _parameters(projection.shapes),
            "steps": [
                step._asdict() | {"memory": step.memory and step.memory._asdict()}
                for step in projection.steps
            ],
            "exchanges": [each._asdict() for each in projection.exchanges],
            "checkpoints": [each._asdict() for each in projection.checkpoints],
        },
    }


def _parameters(shapes: Shapes) -> dict[str, int]:
    return {"frozen_parameters": shapes.frozen_parameters, "lora_parameters": shapes.lora_parameters}


def _measured(measured: Measured) -> Iterator[str]:
    yield "## MEASURED: collectives between processes of one machine"
    yield page.markdown(("", ""), measured.machine.items())
    yield FITS
    columns = ("collective", "α, µs", "1/β, GB/s", "on", "samples", "median error", "worst error")
    yield page.markdown(
        columns, [_check_row(each, measured.links[each.collective]) for each in measured.checks]
    )
    yield "## MEASURED: the plan"
    plan = measured.plan
    yield (
        f"{plan['records']:,} records, a global batch of {plan['global_batch']:,}, {plan['ranks']:,} ranks: "
        f"plan and first batch {plan['plan_and_first_batch_s']:.2f} s; the first share of a step "
        f"{1e3 * plan['first_share_of_a_step_s']:.2f} ms, a further one {1e3 * plan['share_s']:.2f} ms."
    )


def _check_row(each: Check, link: Link) -> tuple[str, ...]:
    bandwidth = f"{1e-9 / link.beta:.2f}" if link.beta else "no limit found"
    errors = (f"{100 * error:.0f} %" for error in (each.median_error, each.worst_error))
    return each.collective, f"{1e6 * link.alpha:.0f}", bandwidth, each.samples_of, str(each.samples), *errors


def _projected(projection: Projection) -> Iterator[str]:
    yield from _assumed(projection.shapes, projection.given)
    yield from _steps(projection.steps)
    yield "## PROJECTION: what ZeRO-2 exchanges in a step"
    yield (
        "Gradients are all-reduced in fp32, updated weights gathered in bf16. MB that a GPU sends, and that "
        "leave a node over all its network cards: in a ring as many as one GPU sends."
    )
    yield _exchange_table(projection.exchanges)
    yield "## PROJECTION: checkpoints"
    yield "A step waits while a checkpoint is gathered and copied; it is written in the background."
    columns = ("nodes", "GPUs", "MB", "gathered in, ms", "copied in, ms", "written in, s")
    yield page.markdown(columns, [_checkpoint_row(each) for each in projection.checkpoints])


def _assumed(shapes: Shapes, given: Assumptions) -> Iterator[str]:
    yield "## PROJECTION: assumptions"
    yield (
        f"Mistral-7B: {shapes.frozen_parameters / 1e9:.2f} billion frozen parameters in bf16, LoRA of rank "
        f"{shapes.rank} on the seven linear layers: {shapes.lora_parameters / 1e6:.1f} million trainable."
    )
    yield page.markdown(("", "", ""), _assumptions(given))


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    yield STEP_NOTE
    for negatives in NEGATIVES:
        for batch in GLOBAL_BATCHES:
            rows = [s for s in steps if (s.negatives, s.global_batch) == (negatives, batch)]
            yield f"## PROJECTION: global batch {batch:,}, negatives {negatives}"
            yield _step_table(rows)
    yield "## PROJECTION: the pool"
    yield (
        "MB of embeddings that are gathered, that a rank sends forward and backward, and GB that pool and "
        "scores take on a rank, at the largest number of nodes that fits."
    )
    yield _pool_table(steps)
    yield "## PROJECTION: memory"
    yield "GB a GPU, on the fewest and the most nodes that fit, with the pool gathered whole and in a ring."
    yield _memory_table(steps)


def _assumptions(given: Assumptions) -> list[tuple[str, str, str]]:
    return [
        (f"`--{field.name.replace('_', '-')}`", str(getattr(given, field.name)), field.metadata["what"])
        for field in dataclasses.fields(given)
    ]


def _step_table(rows: Sequence[Step]) -> str:
    columns = ("nodes", "GPUs", "micro-batches", "compute, s", *(f"comm. {name}, ms" for name in OPTIONS))
    columns = (*columns, "step, s", "communication", "efficiency", "records/s", "GB a GPU", "")
    by_nodes: dict[int, dict[str, Step]] = {}
    for row in rows:
        by_nodes.setdefault(row.nodes, {})[row.gather] = row
    return page.markdown(columns, [_step_row(steps, len(columns)) for steps in by_nodes.values()])


def _step_row(steps: Mapping[str, Step], width: int) -> list[str]:
    step = steps["whole"]
    cells = [f"{step.nodes}", f"{step.ranks:,}"]
    if step.step_s is None:
        return [*cells, *[""] * (width - len(cells) - 1), step.note]
    assert step.communication_share is not None
    assert step.memory_bytes is not None
    return [
        *cells,
        f"{step.micro_batches}",
        f"{step.compute_s:.3f}",
        *(f"{1e3 * (steps[name].step_s - steps[name].compute_s):.1f}" for name in OPTIONS),  # type: ignore[operator]
        f"{step.step_s:.3f}",
        f"{100 * step.communication_share:.1f} %",
        f"{step.efficiency:.2f}",
        f"{step.records_per_s:,.0f}",
        f"{step.memory_bytes / 1e9:.1f}",
        step.note,
    ]


def _pool_table(steps: Sequence[Step]) -> str:
    columns = (
        "global batch",
        "negatives",
        "GPUs",
        "gather",
        "gathered, MB",
        "sent, MB",
        "held with scores, GB",
    )
    rows = []
    for step in _edges(steps)[1]:
        assert step.memory is not None
        rows.append(
            (
                f"{step.global_batch:,}",
                f"{step.negatives}",
                f"{step.ranks:,}",
                step.gather,
                f"{(step.gathered_bytes or 0) / 1e6:.1f}",
                f"{(step.sent_bytes or 0) / 1e6:.1f}",
                f"{(step.memory.pool + step.memory.scores) / 1e9:.3f}",
            )
        )
    return page.markdown(columns, rows)


def _memory_table(steps: Sequence[Step]) -> str:
    columns = ("global batch", "negatives", "GPUs", "gather", *Memory._fields, "sum")
    first, last = _edges([step for step in steps if step.gather in ("whole", "ring")])
    rows = []
    for step in (edge for pair in zip(first, last, strict=True) for edge in pair):
        assert step.memory is not None
        figures = [f"{part / 1e9:.2f}" for part in (*step.memory, sum(step.memory))]
        rows.append((f"{step.global_batch:,}", f"{step.negatives}", f"{step.ranks:,}", step.gather, *figures))
    return page.markdown(columns, rows)


def _edges(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Of each batch, number of negatives and way to gather: the fewest and the most nodes that fit."""
    fitting: dict[tuple[int, int, str], list[Step]] = {}
    for step in steps:
        if step.step_s is not None:
            fitting.setdefault((step.global_batch, step.negatives, step.gather), []).append(step)
    return [group[0] for group in fitting.values()], [group[-1] for group in fitting.values()]


def _exchange_table(exchanges: Sequence[Exchange]) -> str:
    columns = ("nodes", "GPUs", "what", "MB", "sent by a GPU, MB", "leaving a node, MB", "ms")
    rows = [
        (
            f"{each.nodes}",
            f"{each.ranks:,}",
            each.what,
            *(f"{size / 1e6:.0f}" for size in (each.bytes, each.sent_bytes, each.network_bytes)),
            f"{1e3 * each.seconds:.2f}",
        )
        for each in exchanges
    ]
    return page.markdown(columns, rows)


def _checkpoint_row(each: Checkpoint) -> tuple[str, ...]:
    return (
        f"{each.nodes}",
        f"{each.ranks:,}",
        f"{each.bytes / 1e6:.0f}",
        f"{1e3 * each.gather_s:.0f}",
        f"{1e3 * each.copy_s:.0f}",
        f"{each.write_s:.1f}",
    )


def _panels(steps: Sequence[Step]) -> Iterator[Panel]:
    for negatives in NEGATIVES:
        lines = {}
        for batch in GLOBAL_BATCHES:
            mine = [
                s
                for s in steps
                if s.step_s and (s.negatives, s.global_batch, s.gather) == (negatives, batch, "whole")
            ]
            lines[f"{batch:,}: step"] = [(s.ranks, s.step_s) for s in mine if s.step_s]
            lines[f"{batch:,}: communication"] = [
                (s.ranks, s.step_s - s.compute_s) for s in mine if s.step_s and s.compute_s
            ]
        yield Panel(f"PROJECTION, negatives {negatives}", "GPUs", "seconds by global batch", lines)
