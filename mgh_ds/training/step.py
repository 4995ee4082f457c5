"""One optimiser step over a fixed global batch, in one go or with gradient caching.

Gradient caching (Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
2021): embed every micro-batch without a graph, take the loss of the whole pool, keep its gradient with
respect to the embeddings, then embed again with a graph, one micro-batch at a time, and push that gradient
through. Memory is that of one micro-batch; the gradient is that of the whole batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.errors import MghError
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.training.config import LossConfig
from mgh_ds.training.distributed import all_sum, device, gather_objects, rank, world_size
from mgh_ds.training.gather import gather, gather_with_gradient
from mgh_ds.training.loss import Pool, info_nce, level_statistics


@dataclass(frozen=True)
class StepResult:
    """Figures of one step over all ranks."""

    loss: float
    masked_share: float
    levels: dict[str, dict[str, float]]  # by level: accuracy, margin, count
    texts: int
    tokens: int
    records: int


@dataclass(frozen=True)
class Tokenized:
    """A micro-batch as the model takes it: queries and documents together if they are packed; else apart, so
    that short ones are not padded to long ones."""

    seed: int
    parts: list[TokenBatch]  # the texts of all of them, in order, are the queries and then the documents
    shape: tuple[int, int]  # m slots, 1 + K documents each
    texts: int
    tokens: int


def tokenize(batch: MicroBatch, tokenizer: Tokenizer) -> Tokenized:
    """Tokens of one micro-batch, on this rank's device."""
    sides = [
        (batch.queries, batch.query_instructions),
        (batch.documents, batch.document_instructions),
    ]
    if tokenizer.padding_free:
        sides = [(batch.queries + batch.documents, batch.query_instructions + batch.document_instructions)]
    parts = [tokenizer.tokenize(*side) for side in sides]
    return Tokenized(
        seed=batch.seed,
        parts=[part.to(device()) for part in parts],
        shape=(batch.document_valid.shape[0], batch.document_valid.shape[1]),
        texts=sum(part.texts for part in parts),
        tokens=sum(part.tokens for part in parts),
    )


def embed(model: torch.nn.Module, tokens: Tokenized) -> torch.Tensor:
    """Query, positive and negatives of every slot, float32 [m, 2 + K, d].

    Dropout is seeded by the micro-batch, so that both passes of gradient caching, and every world size, draw
    the same.
    """
    torch.manual_seed(tokens.seed & 0x7FFFFFFFFFFFFFFF)
    vectors = torch.cat([model(part) for part in tokens.parts])
    slots, documents = tokens.shape
    return torch.cat([vectors[:slots, None], vectors[slots:].view(slots, documents, -1)], dim=1)


def train_step(
    engine: Any, tokenizer: Tokenizer, batches: Sequence[MicroBatch], config: LossConfig
) -> StepResult:
    """Forward, loss, backward and the optimiser's update.

    Raises MghError on every rank, with the record ids, when a loss or a gradient is not finite.
    """
    result = accumulate_gradient(engine, tokenizer, batches, config)
    engine.step()
    if not math.isfinite(engine.get_global_grad_norm()):
        raise MghError(f"the gradient is not finite; {_named(_all_ids(batches))}")
    return result


def accumulate_gradient(
    engine: Any, tokenizer: Tokenizer, batches: Sequence[MicroBatch], config: LossConfig
) -> StepResult:
    """Everything of a step but the update: afterwards the engine holds the gradient of the global batch's
    mean loss."""
    tokens = [tokenize(batch, tokenizer) for batch in batches]
    engine.train()
    if len(tokens) == 1:
        embeddings = embed(engine, tokens[0])
        result, objective = _loss(embeddings, batches, config)
        engine.backward(objective)
    else:
        with torch.no_grad():
            cached = torch.cat([embed(engine, part) for part in tokens])
        cached.requires_grad_()
        result, objective = _loss(cached, batches, config)
        objective.backward()
        assert cached.grad is not None
        with engine.coalesce_grad_reduction():
            for part, gradient in zip(
                tokens, cached.grad.split([part.shape[0] for part in tokens]), strict=True
            ):
                engine.backward((embed(engine, part) * gradient).sum())
    counts = [sum(part.texts for part in tokens), sum(part.tokens for part in tokens)]
    texts, total = all_sum(torch.tensor(counts, device=device())).tolist()
    return StepResult(**result, texts=texts, tokens=total)


def _loss(
    embeddings: torch.Tensor, batches: Sequence[MicroBatch], config: LossConfig
) -> tuple[dict[str, Any], torch.Tensor]:
    """The step's figures, and a scalar whose gradient, averaged over the ranks, is the global mean loss's."""
    _check_embeddings(embeddings, batches)
    document_valid = _stack(batches, "document_valid")
    pool = Pool(
        embeddings=gather_with_gradient(embeddings),
        valid=gather(_stack(batches, "valid")),
        document_valid=gather(document_valid),
        query_hash=gather(_stack(batches, "query_hash")),
        document_hash=gather(_stack(batches, "document_hash")),
        symmetric=gather(_stack(batches, "symmetric")),
    )
    first = rank() * len(embeddings)
    output = info_nce(pool, slice(first, first + len(embeddings)), config)
    records = int(pool.valid.sum())
    if records == 0:
        raise MghError("a global batch without a single record: the plan and the store do not fit together")

    sums = all_sum(torch.stack([output.loss_sum.detach(), output.masked, output.candidates]).double())
    levels = all_sum(level_statistics(embeddings, _stack(batches, "levels"), document_valid))
    loss = sums[0].item() / records
    if not math.isfinite(loss):
        raise MghError(f"the loss is {loss}; {_named(_all_ids(batches))}")
    figures = {
        "loss": loss,
        "masked_share": (sums[1] / sums[2].clamp(min=1)).item(),
        "levels": _level_figures(levels),
        "records": records,
    }
    return figures, output.loss_sum * (world_size() / records)


def _level_figures(table: torch.Tensor) -> dict[str, dict[str, float]]:
    rows = enumerate(table.tolist())
    return {
        str(level): {"accuracy": below / count, "margin": margin / count, "count": int(count)}
        for level, (count, below, margin) in rows
        if count
    }


def _stack(batches: Sequence[MicroBatch], name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(batch, name) for batch in batches])).to(device())


def _check_embeddings(embeddings: torch.Tensor, batches: Sequence[MicroBatch]) -> None:
    finite = embeddings.detach().isfinite().flatten(1).all(dim=1)
    if all_sum((~finite).sum()).item() == 0:
        return
    mine = [name for name, good in zip(_ids(batches), finite.tolist(), strict=True) if not good]
    raise MghError(f"an embedding is not finite; {_named(_joined(gather_objects(mine)))}")


def _ids(batches: Sequence[MicroBatch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


def _all_ids(batches: Sequence[MicroBatch]) -> list[str]:
    return _joined(gather_objects(_ids(batches)))


def _joined(lists: list[list[str]]) -> list[str]:
    return [name for part in lists for name in part]


def _named(ids: Sequence[str]) -> str:
    return "records of the batch at fault: " + ", ".join(name for name in ids if name)
