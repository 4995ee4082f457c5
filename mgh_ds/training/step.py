"""One optimiser step over a fixed global batch, in one go or with gradient caching.

Gradient caching (Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
2021): embed every micro-batch without a graph, take the loss of the whole batch, keep its gradient with
respect to the embeddings, then embed again with a graph, one micro-batch at a time, and push that gradient
through. Memory is that of one micro-batch; the gradient is that of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mgh_ds.distributed.group import all_sum, device
from mgh_ds.losses.base import Loss
from mgh_ds.training.batch import Batch
from mgh_ds.training.objective import NotFiniteError, all_ids, objective


@dataclass(frozen=True)
class StepResult:
    """Figures of one step over all ranks."""

    loss: float
    statistics: dict[str, float]  # of the loss, by its own names
    levels: dict[str, dict[str, float]]  # by level: accuracy, margin, count
    texts: int
    tokens: int
    records: int


def embed(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Query, positive and negatives of every record, float32 [m, 2 + K, d].

    Dropout is seeded by the micro-batch, so that both passes of gradient caching, and every world size, draw
    the same.
    """
    torch.manual_seed(batch.seed & 0x7FFFFFFFFFFFFFFF)
    vectors = torch.cat([model(part) for part in batch.tokens])
    records, documents = batch.shape
    return torch.cat([vectors[:records, None], vectors[records:].view(records, documents, -1)], dim=1)


def train_step(engine: Any, batches: Sequence[Batch], loss: Loss) -> StepResult:
    """Forward, loss, backward and the optimiser's update; the batches lie on the engine's device.

    Raises NotFiniteError on every rank, with the record ids, when a loss or a gradient is not finite; weights
    and optimiser are then as they were before the step.
    """
    result = accumulate_gradient(engine, batches, loss)
    engine.step()  # leaves everything as it is when the gradient is not finite
    if not engine.was_step_applied():
        raise NotFiniteError("the gradient is not finite", all_ids(batches))
    return result


def accumulate_gradient(engine: Any, batches: Sequence[Batch], loss: Loss) -> StepResult:
    """Everything of a step but the update: afterwards the engine holds the gradient of the global batch's
    mean loss."""
    engine.train()
    if len(batches) == 1:
        figures, scalar = objective(embed(engine, batches[0]), batches, loss)
        engine.backward(scalar)
    else:
        with torch.no_grad():
            cached = torch.cat([embed(engine, batch) for batch in batches])
        cached.requires_grad_()
        figures, scalar = objective(cached, batches, loss)
        scalar.backward()
        assert cached.grad is not None
        gradients = cached.grad.split([batch.shape[0] for batch in batches])
        with engine.coalesce_grad_reduction():
            for batch, gradient in zip(batches, gradients, strict=True):
                engine.backward((embed(engine, batch) * gradient).sum())
    counts = [sum(batch.text_count for batch in batches), sum(batch.token_count for batch in batches)]
    texts, tokens = all_sum(torch.tensor(counts, device=device())).tolist()
    return StepResult(**figures, texts=texts, tokens=tokens)
