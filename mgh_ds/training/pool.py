"""The loss of one step: from this rank's embeddings, through the pool of all ranks, to a figure and a
gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.distributed.group import all_sum, device, gather_objects, rank, world_size
from mgh_ds.training.config import LossConfig
from mgh_ds.training.gather import Ring, gather, gather_with_gradient, pool_group
from mgh_ds.training.loss import NOBODY, Candidates, Rows, info_nce, level_statistics


class NotFiniteError(MghError):
    """A step whose numbers are no numbers: what is not finite, and the records that it may come from."""

    def __init__(self, what: str, ids: Sequence[str]) -> None:
        self.what, self.ids = what, sorted(name for name in ids if name)
        super().__init__(f"{what}; records at fault: {', '.join(self.ids)}")


@dataclass(frozen=True)
class Slots:
    """n slots of a global batch, with a query, its positive and K graded negatives each."""

    embeddings: torch.Tensor  # float32 [n, 2 + K, d], unit length: query, positive, negatives
    valid: torch.Tensor  # bool [n], false for empty slots
    document_valid: torch.Tensor  # bool [n, 1 + K]
    query_hash: torch.Tensor  # int64 [n]
    document_hash: torch.Tensor  # int64 [n, 1 + K]
    symmetric: torch.Tensor  # bool [n]
    pool: torch.Tensor  # int64 [n]

    def rows(self, which: torch.Tensor, *, back: bool = False) -> Rows:
        """The slots `which`, bool [n], from the query to the positive, or back."""
        anchor, target = (1, 0) if back else (0, 1)
        hashes = self.query_hash[which], self.document_hash[which, 0]
        sides = self.embeddings[which]
        return Rows(sides[:, anchor], sides[:, target], hashes[anchor], hashes[target], self.pool[which])

    def documents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [n, 1 + K, d] and facts [n, 1 + K, 3] of the candidates."""
        partner = torch.cat([self.query_hash[:, None], self.document_hash[:, 1:]], dim=1)
        pool = torch.where(self.document_valid, self.pool[:, None], NOBODY)
        return self.embeddings[:, 1:], torch.stack([self.document_hash, partner, pool], dim=-1)

    def queries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [n, d] and facts [n, 3] of the candidates on the way back."""
        pool = torch.where(self.valid, self.pool, NOBODY)
        return self.embeddings[:, 0], torch.stack([self.query_hash, self.document_hash[:, 0], pool], dim=-1)


def pool_loss(
    embeddings: torch.Tensor, batches: Sequence[MicroBatch], config: LossConfig, pools: int = 1
) -> tuple[dict[str, Any], torch.Tensor]:
    """The step's figures, and a scalar whose gradient, averaged over the ranks, is the global mean loss's.

    Args:
        embeddings: float32 [n, 2 + K, d], unit length: query, positive and negatives of this rank's slots.
        batches: the micro-batches that they come from.
        config: the loss.
        pools: into how many pools the global batch is cut; a query sees candidates of its own one.

    Raises NotFiniteError on every rank when one has a number that is none, before any backward pass.
    """
    _check_pools(batches, pools)
    _check_embeddings(embeddings, batches)
    slots = _slots(embeddings, batches)
    loss_sum, counts = contrast(slots, config, pool_group(pools))

    sums = all_sum(torch.stack([loss_sum.detach(), slots.valid.sum(), *counts]).double())
    total, records, candidates, masked = sums.tolist()
    if records == 0:
        raise MghError("a global batch without a single record: the plan and the store do not fit together")
    levels = all_sum(level_statistics(embeddings, _stack(batches, "levels"), slots.document_valid))
    loss = total / records
    if not math.isfinite(loss):
        raise NotFiniteError(f"the loss is {loss}", all_ids(batches))
    figures = {
        "loss": loss,
        "masked_share": masked / max(1, candidates),
        "levels": _level_figures(levels),
        "records": int(records),
    }
    return figures, loss_sum * (world_size() / records)


def contrast(
    slots: Slots, config: LossConfig, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's rows against the candidates of the group's ranks.

    A rank sends only what rows of others see: positives, graded negatives unless they are for their own query
    alone, and queries where positives are to find them again.

    Returns the summed loss of this rank's valid slots, float32 scalar, and two counts, int64 [2]: candidates
    of queries, and how many of these were masked.
    """
    vectors, facts = slots.documents()
    if config.own_negatives_only:
        sources = [
            _of_all_ranks(vectors[:, 0], facts[:, 0], config, group),
            Candidates(vectors[slots.valid, 1:], facts[slots.valid, 1:]),
        ]
    else:
        sources = [_of_all_ranks(vectors.flatten(0, 1), facts.flatten(0, 1), config, group)]
    rows = slots.rows(slots.valid)
    losses, counts = info_nce(rows, sources, config.temperature, config.false_negative_margin)
    counts = counts - len(losses)  # a positive is not its own rival
    if not config.symmetric:
        return losses.sum(), counts

    both_ways = slots.symmetric & slots.valid
    queries = _of_all_ranks(*slots.queries(), config, group)
    back, _ = info_nce(slots.rows(both_ways, back=True), [queries], config.temperature)
    there = torch.where(slots.symmetric[slots.valid], losses / 2, losses)
    return there.sum() + back.sum() / 2, counts


def _of_all_ranks(
    vectors: torch.Tensor, facts: torch.Tensor, config: LossConfig, group: dist.ProcessGroup | None
) -> Candidates:
    if config.gather == "ring":
        return Candidates(vectors, facts, Ring(group))
    return Candidates(gather_with_gradient(vectors, group), gather(facts, group))


def all_ids(batches: Sequence[MicroBatch]) -> list[str]:
    """The record ids of every rank's micro-batches, in rank order; an empty slot's is ""."""
    return _joined(gather_objects(_ids(batches)))


def _level_figures(table: torch.Tensor) -> dict[str, dict[str, float]]:
    rows = enumerate(table.tolist())
    return {
        str(level): {"accuracy": below / count, "margin": margin / count, "count": int(count)}
        for level, (count, below, margin) in rows
        if count
    }


def _slots(embeddings: torch.Tensor, batches: Sequence[MicroBatch]) -> Slots:
    names = ("valid", "document_valid", "query_hash", "document_hash", "symmetric")
    pools = np.repeat([batch.pool for batch in batches], [len(batch.valid) for batch in batches])
    arrays = [_stack(batches, name) for name in names]
    arrays.append(torch.from_numpy(pools).to(device()))
    return Slots(embeddings, *arrays)


def _stack(batches: Sequence[MicroBatch], name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(batch, name) for batch in batches])).to(device())


def _check_pools(batches: Sequence[MicroBatch], pools: int) -> None:
    """Ranks of different pools exchange nothing: a micro-batch on the wrong one would miss its candidates."""
    found = {batch.pool for batch in batches if batch.valid.any()}
    if world_size() % pools == 0 and found - {rank() % pools}:
        raise MghError(
            f"rank {rank()} works on pool {rank() % pools} of {pools}, but was dealt pools {sorted(found)}"
        )


def _check_embeddings(embeddings: torch.Tensor, batches: Sequence[MicroBatch]) -> None:
    finite = embeddings.detach().isfinite().flatten(1).all(dim=1)
    if all_sum((~finite).sum()).item() == 0:
        return
    mine = [name for name, good in zip(_ids(batches), finite.tolist(), strict=True) if not good]
    raise NotFiniteError("an embedding is not finite", _joined(gather_objects(mine)))


def _ids(batches: Sequence[MicroBatch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


def _joined(lists: list[list[str]]) -> list[str]:
    return [name for part in lists for name in part]
