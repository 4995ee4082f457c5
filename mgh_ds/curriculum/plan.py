"""The plan: a pure function from (seed, step) to the global batch, the same for every number of ranks.

`batch(step)` says which records a step trains on; `share(step, world_size, rank)` which of them a rank works
on. Both depend on their arguments alone, so training may stop and go on anywhere, with another number of
ranks too.

The unit that is dealt to ranks is the micro-batch: its members do not depend on the world size, so neither
does anything that is seeded by it (dropout). Members are dealt over the micro-batches in snake order of
length, which balances tokens.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.curriculum.mixing import fold_key, mix64
from mgh_ds.curriculum.stages import Stage, make_stages
from mgh_ds.errors import MghError
from mgh_ds.records.store import StoreIndex

EMPTY = -1


@dataclass(frozen=True)
class Coverage:
    """A stage's records: those it trains on, those without a negative at its levels (which fall back or sit
    it out), and how often its steps go through them."""

    stage: Stage
    eligible: int
    lacking: int
    epochs: float


class Plan:
    """Global batches of `global_batch` records for every step of a curriculum.

    Args:
        index: columns of the training store.
        config: the curriculum.
        steps: optimiser steps in all.
        global_batch: records a step, whatever the number of ranks.
        micro_batch: records a forward pass; must divide `global_batch`.
        seed: another seed, another order.

    Raises MghError when a stage has no eligible record or the batch sizes do not fit.
    """

    def __init__(
        self,
        index: StoreIndex,
        config: CurriculumConfig,
        *,
        steps: int,
        global_batch: int,
        micro_batch: int,
        seed: int,
    ) -> None:
        if min(steps, global_batch, micro_batch) < 1 or global_batch % micro_batch:
            raise MghError(
                f"steps ({steps}), global_batch ({global_batch}) and micro_batch ({micro_batch}) must be "
                "positive, and micro_batch must divide global_batch"
            )
        self.index, self.config, self.seed = index, config, seed
        self.steps, self.global_batch, self.micro_batch = steps, global_batch, micro_batch
        self.stages: Sequence[Stage] = make_stages(config, steps)
        self._eligible = [self._eligible_rows(stage) for stage in self.stages]
        self._layout = functools.lru_cache(maxsize=2)(self._make_layout)

    def stage(self, step: int) -> Stage:
        """The stage that step belongs to; steps count from 0."""
        if not 0 <= step < self.steps:
            raise MghError(f"step {step} lies outside the plan's {self.steps} steps")
        return next(stage for stage in self.stages if step < stage.first_step + stage.steps)

    def epoch(self, step: int) -> int:
        """How often the stage has gone through its records before `step`."""
        stage = self.stage(step)
        return (step - stage.first_step) // self._batches_per_epoch(stage)

    def batch(self, step: int) -> np.ndarray:
        """Row numbers of the global batch, int64 [global_batch]; an epoch's last batch may end in `EMPTY`
        (−1) slots."""
        stage = self.stage(step)
        epoch, position = divmod(step - stage.first_step, self._batches_per_epoch(stage))
        return self._layout(stage.index, epoch)[position]

    def share(self, step: int, world_size: int, rank: int) -> np.ndarray:
        """This rank's micro-batches of the step, int64 [ceil(micro-batches / world_size), micro_batch].

        Every rank gets the same number; where they do not divide evenly the last one is all `EMPTY`.
        """
        count = self.global_batch // self.micro_batch
        if world_size > count:
            raise MghError(
                f"{world_size} ranks, but a global batch of {self.global_batch} makes only {count} "
                f"micro-batches of {self.micro_batch}: lower training.micro_batch or use fewer ranks"
            )
        chunks = self._deal(step, count)
        share = np.full((-(-count // world_size), self.micro_batch), EMPTY, dtype=np.int64)
        mine = chunks[rank::world_size]
        share[: len(mine)] = mine
        return share

    def fingerprint(self, manifest_hash: str) -> str:
        """SHA-256 over everything that the batches depend on: two runs with the same one train on the same
        batches."""
        parts = [
            asdict(self.config),
            self.steps,
            self.global_batch,
            self.micro_batch,
            self.seed,
            manifest_hash,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def coverage(self) -> list[Coverage]:
        """What each stage trains on, and how many records lack its levels."""
        return [
            Coverage(
                stage=stage,
                eligible=len(eligible),
                lacking=int((~self._has_levels(stage)).sum()),
                epochs=stage.steps / self._batches_per_epoch(stage),
            )
            for stage, eligible in zip(self.stages, self._eligible, strict=True)
        ]

    def _has_levels(self, stage: Stage) -> np.ndarray:
        return self.index.level_counts[:, [0, *stage.levels]].max(axis=1) > 0

    def _eligible_rows(self, stage: Stage) -> np.ndarray:
        counts = self.index.level_counts
        present = [level for level in range(1, 5) if counts[:, level].any()]
        absent = [level for level in stage.levels if level not in present]
        if stage.negatives and present and absent:
            raise MghError(
                f"stage `{stage.name}`: no record has a negative of level {absent[0]}; the data has "
                f"levels {present}"
            )
        keep = (
            self._has_levels(stage)
            if self.config.missing_level == "skip"
            else np.ones(len(counts), dtype=bool)
        )
        rows = np.flatnonzero(keep)
        if not len(rows):
            raise MghError(f"stage `{stage.name}` has no record to train on")
        return rows

    def _lengths(self, stage: Stage, rows: np.ndarray) -> np.ndarray:
        """Characters that a record brings to a batch: a cheap, tokenizer-free stand-in for tokens."""
        index = self.index
        negatives = index.level_chars[rows][:, [0, *stage.levels]].astype(np.int64)
        return index.query_chars[rows].astype(np.int64) + index.positive_chars[rows] + negatives.sum(axis=1)

    def _groups(self, rows: np.ndarray) -> np.ndarray:
        if not self.config.homogeneous:
            return np.zeros(len(rows), dtype=np.int64)
        return np.unique(self.index.task_hash[rows], return_inverse=True)[1]

    def _batches_per_epoch(self, stage: Stage) -> int:
        return -(-len(self._eligible[stage.index]) // self.global_batch)

    def _make_layout(self, stage_index: int, epoch: int) -> np.ndarray:
        """One epoch of a stage, int64 [batches, global_batch]: every eligible row exactly once."""
        stage, rows = self.stages[stage_index], self._eligible[stage_index]
        key = fold_key(self.seed, stage_index, epoch)
        rows = rows[np.argsort(mix64(self.index.id_hash[rows], key), kind="stable")]
        groups = self._groups(rows)

        place = _place_in_group(groups)
        full = np.bincount(groups) // self.global_batch * self.global_batch
        whole = place < full[groups]
        ordered = np.concatenate(
            [
                self._by_length(stage, rows[whole], groups[whole], place[whole]),
                self._by_length(stage, rows[~whole], None, np.arange(np.count_nonzero(~whole))),
            ]
        )
        batches = -(-len(ordered) // self.global_batch)
        layout = np.full(batches * self.global_batch, EMPTY, dtype=np.int64)
        layout[: len(ordered)] = ordered
        order = np.argsort(mix64(np.arange(batches, dtype=np.uint64), fold_key(key, 1)), kind="stable")
        return layout.reshape(batches, self.global_batch)[order]

    def _by_length(
        self, stage: Stage, rows: np.ndarray, groups: np.ndarray | None, place: np.ndarray
    ) -> np.ndarray:
        window = place // (self.config.length_window * self.global_batch)
        keys = [place, self._lengths(stage, rows), window]  # np.lexsort takes the weakest key first
        return rows[np.lexsort(keys if groups is None else [*keys, groups])]

    def _deal(self, step: int, count: int) -> np.ndarray:
        """The batch as micro-batches, int64 [count, micro_batch], dealt in snake order of length."""
        batch, stage = self.batch(step), self.stage(step)
        lengths = np.where(batch == EMPTY, -1, self._lengths(stage, batch))
        longest_first = batch[np.argsort(-lengths, kind="stable")].reshape(self.micro_batch, count)
        longest_first[1::2] = longest_first[1::2, ::-1]
        return longest_first.T


def _place_in_group(groups: np.ndarray) -> np.ndarray:
    """For each element, how many of its group stand before it."""
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(groups))[:-1]])
    place = np.empty(len(groups), dtype=np.int64)
    place[order] = np.arange(len(groups)) - starts[groups[order]]
    return place
