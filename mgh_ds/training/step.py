"""One optimiser step over a fixed global batch, in one go or with gradient caching.

Gradient caching (Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
2021): embed every micro-batch without a graph, take the loss of the whole batch, keep its gradient with
respect to the embeddings, then embed again with a graph, one micro-batch at a time, and push that gradient
through. Memory is that of one micro-batch; the gradient is that of the whole batch.

The host waits for the device only where the optimiser does: all that is reported and decided of a step is one
message, which is under way before the optimiser begins.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.sums import Sums
from mgh_ds.losses.base import Loss
from mgh_ds.training.batch import Batch, Size
from mgh_ds.training.objective import Objective, objective

Notes = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class StepResult:
    """What came of one step over all ranks; the same on each, but for `finite`."""

    problem: str | None  # why no weight was changed; None for a step that was applied
    loss: float
    statistics: dict[str, float]  # of the loss, by its own names
    levels: dict[str, dict[str, float]]  # by level: accuracy, margin, count
    size: Size
    records: int
    grad_norm: float
    notes: dict[str, float]  # as given to `train_step`, added up
    finite: torch.Tensor  # bool [n]: whether the embeddings of this rank's records are


@dataclass(frozen=True)
class Pending:
    """A step's figures on their way. The loss is a mean over the records, or over as many terms as the sums
    say."""

    sums: Sums
    records: int
    of_rank: Objective

    def read(self, applied: bool = True, grad_norm: float = 0.0) -> StepResult:
        """The figures, once the step was applied, or was not."""
        sums = self.sums.read()
        loss = sums.pop("loss").item() / max(float(sums.pop("terms", self.records)), 1)
        not_finite = sums.pop("not_finite").item()
        problem = None
        if not applied:
            problem = "the gradient is not finite"
            if not_finite:
                problem = "an embedding is not finite"
            elif not math.isfinite(loss):
                problem = f"the loss is {loss}"
        return StepResult(
            problem=problem,
            loss=loss,
            statistics={
                name: above / below if below else 0.0
                for name, (above, below) in zip(
                    self.of_rank.statistics, sums.pop("statistics").tolist(), strict=True
                )
            },
            levels=_level_figures(sums.pop("levels")),
            size=Size(*(int(sums.pop(name).item()) for name in Size._fields)),
            records=self.records,
            grad_norm=grad_norm,
            notes={name: number.item() for name, number in sums.items()},
            finite=self.of_rank.finite,
        )


def embed(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Query, positive and negatives of every record, float32 [m, 2 + K, d].

    Dropout is seeded by the micro-batch, so that both passes of gradient caching, and every world size, draw
    the same.
    """
    torch.manual_seed(batch.seed & 0x7FFFFFFFFFFFFFFF)
    return batch.by_record(torch.cat([model(part) for part in batch.tokens]))


def train_step(
    engine: Any, batches: Sequence[Batch], loss: Loss, records: int, notes: Notes = dict
) -> StepResult:
    """Forward, loss, backward and the optimiser's update; the batches lie on the engine's device.

    When a loss or a gradient is not finite, weights and optimiser stay as they were, on every rank, and the
    result says what is the matter.

    Args:
        records: of the global batch, on all ranks together.
        notes: asked when the backward pass is done: numbers of this rank that are to be added up over the
            ranks along with the figures.
    """
    return apply_gradient(engine, accumulate_gradient(engine, batches, loss, records, notes))


def apply_gradient(engine: Any, figures: Pending) -> StepResult:
    """The optimiser's update, from the gradient that the engine holds, and what came of the step."""
    engine.step()  # leaves everything as it is when the gradient is not finite
    return figures.read(engine.was_step_applied(), float(engine.get_global_grad_norm()))


def accumulate_gradient(
    engine: Any, batches: Sequence[Batch], loss: Loss, records: int, notes: Notes = dict
) -> Pending:
    """Everything of a step but the update: afterwards the engine holds the gradient of the global batch's
    mean loss. Raises MghError for a batch without a record."""
    if records == 0:
        raise MghError("a global batch without a single record: the plan and the store do not fit together")
    engine.train()
    if len(batches) == 1:
        result = objective(embed(engine, batches[0]), batches, loss, records)
        engine.backward(result.scalar)
    else:
        with torch.no_grad():
            cached = torch.cat([embed(engine, batch) for batch in batches])
        cached.requires_grad_()
        result = objective(cached, batches, loss, records)
        result.scalar.backward()
        assert cached.grad is not None
        gradients = cached.grad.split([batch.shape[0] for batch in batches])
        with engine.coalesce_grad_reduction():
            for batch, gradient in zip(batches, gradients, strict=True):
                engine.backward((embed(engine, batch) * gradient).sum())
    size = Size.total(batch.size for batch in batches)
    return Pending(Sums({**result.figures, **size._asdict(), **notes()}), records, result)


def _level_figures(table: np.ndarray) -> dict[str, dict[str, float]]:
    rows = enumerate(table.tolist())
    return {
        str(level): {"accuracy": below / count, "margin": margin / count, "count": int(count)}
        for level, (count, below, margin) in rows
        if count
    }
