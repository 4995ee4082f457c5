"""One optimiser step over a fixed global batch, in one go or with gradient caching.

Gradient caching (Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
2021): embed every micro-batch without a graph, take the loss of the whole pool, keep its gradient with
respect to the embeddings, then embed again with a graph, one micro-batch at a time, and push that gradient
through. Memory is that of one micro-batch; the gradient is that of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mgh_ds.distributed.group import all_sum, device
from mgh_ds.training.config import TrainingConfig
from mgh_ds.training.inputs import Inputs
from mgh_ds.training.pool import NotFiniteError, all_ids, pool_loss


@dataclass(frozen=True)
class StepResult:
    """Figures of one step over all ranks."""

    loss: float
    masked_share: float
    levels: dict[str, dict[str, float]]  # by level: accuracy, margin, count
    texts: int
    tokens: int
    records: int


def embed(model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
    """Query, positive and negatives of every slot, float32 [m, 2 + K, d].

    Dropout is seeded by the micro-batch, so that both passes of gradient caching, and every world size, draw
    the same.
    """
    torch.manual_seed(inputs.batch.seed & 0x7FFFFFFFFFFFFFFF)
    vectors = torch.cat([model(part) for part in inputs.parts])
    slots, documents = inputs.shape
    return torch.cat([vectors[:slots, None], vectors[slots:].view(slots, documents, -1)], dim=1)


def train_step(engine: Any, inputs: Sequence[Inputs], config: TrainingConfig) -> StepResult:
    """Forward, loss, backward and the optimiser's update.

    Raises NotFiniteError on every rank, with the record ids, when a loss or a gradient is not finite; weights
    and optimiser are then as they were before the step.
    """
    result = accumulate_gradient(engine, inputs, config)
    engine.step()  # leaves everything as it is when the gradient is not finite
    if not engine.was_step_applied():
        raise NotFiniteError("the gradient is not finite", all_ids([part.batch for part in inputs]))
    return result


def accumulate_gradient(engine: Any, inputs: Sequence[Inputs], config: TrainingConfig) -> StepResult:
    """Everything of a step but the update: afterwards the engine holds the gradient of the global batch's
    mean loss."""
    inputs = [part.to(device()) for part in inputs]
    batches = [part.batch for part in inputs]
    engine.train()
    if len(inputs) == 1:
        result, objective = pool_loss(embed(engine, inputs[0]), batches, config.loss, config.pools)
        engine.backward(objective)
    else:
        with torch.no_grad():
            cached = torch.cat([embed(engine, part) for part in inputs])
        cached.requires_grad_()
        result, objective = pool_loss(cached, batches, config.loss, config.pools)
        objective.backward()
        assert cached.grad is not None
        gradients = cached.grad.split([part.shape[0] for part in inputs])
        with engine.coalesce_grad_reduction():
            for part, gradient in zip(inputs, gradients, strict=True):
                engine.backward((embed(engine, part) * gradient).sum())
    counts = [sum(part.texts for part in inputs), sum(part.tokens for part in inputs)]
    texts, total = all_sum(torch.tensor(counts, device=device())).tolist()
    return StepResult(**result, texts=texts, tokens=total)
