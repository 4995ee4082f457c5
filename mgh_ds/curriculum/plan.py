"""The plan: a pure function from (seed, step) to the global batch, the same for every number of ranks.

`batch(step)` says which records a step trains on; `local_batch(step, world_size, rank)` which of them a rank
works on. Both depend on their arguments alone, so training may stop and go on anywhere, with another number
of ranks too.

The unit that is assigned to ranks is the micro-batch: its members do not depend on the world size, so neither
does anything that is seeded by it (dropout).
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.assignment import assign, make_micro_batches
from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.curriculum.layout import EMPTY, make_layout
from mgh_ds.curriculum.mixing import fold_key
from mgh_ds.curriculum.sources import SourceConfig, Sources, what_is_said
from mgh_ds.curriculum.stages import SourceName, Stage, make_stages
from mgh_ds.curriculum.turns import Stream, epochs_of, take_turns
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.store import StoreIndex

__all__ = ["EMPTY", "Coverage", "TrainingPlan"]

# Raised whenever the same arguments give other batches than before: runs of an older plan are then refused
# rather than continued with other data.
PLAN_VERSION = 2
SOURCES: tuple[SourceName, ...] = ("all", "graded", "ungraded")
SourceKey = SourceName | int
"""A source of a stage: by its name or, where those of `data.train` are weighed, by its number."""


@dataclass(frozen=True)
class Coverage:
    """A source of a stage: its records that are trained on, those without a negative at the stage's levels
    (which fall back or sit it out), and how often the steps that draw from it go through them."""

    stage: Stage
    source: str
    steps: int
    eligible: int
    lacking: int
    epochs: float

    @property
    def name(self) -> str:
        """The stage's name, and the source's where there are several."""
        return self.stage.name if self.source == "all" else f"{self.stage.name}, {self.source}"


@dataclass(frozen=True)
class SourceUse:
    """What a run takes from one of `data.train`: the steps that draw from it, their share of all steps, and
    how often they go through its records."""

    config: SourceConfig
    records: int
    steps: int
    share: float
    epochs: float

    @property
    def words(self) -> str:
        """In one line."""
        most = self.config.max_epochs
        cap = "" if most is None else f" of at most {most:g}"
        return (
            f"{self.config.path}: {self.steps:,} steps, {self.share:.1%} of all, "
            f"{self.epochs:.2f}{cap} epochs of {self.records:,} records"
        )


class TrainingPlan:
    """Global batches of `global_batch` records for every step of a curriculum.

    Args:
        index: columns of the training store.
        config: the curriculum.
        steps: optimiser steps in all.
        global_batch: records a step, whatever the number of ranks.
        micro_batch: records a forward pass; must divide `global_batch`.
        seed: another seed, another order.
        negative_groups: into how many groups a global batch is cut, whose queries see their own documents
            alone; must divide the number of micro-batches.
        max_chars: where texts are cut: a longer one weighs no more. None: they are not cut.
        sources: whose rows those of `index` are, and what is said of each. None: nothing is.

    Raises MghError when a source has no eligible record, lacks what is said of it or gets no step, when all
    have reached their caps before the last step, or when the batch sizes do not fit.
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
        negative_groups: int = 1,
        max_chars: int | None = None,
        sources: Sources | None = None,
    ) -> None:
        if min(steps, global_batch, micro_batch, negative_groups) < 1 or global_batch % micro_batch:
            raise MghError(
                f"steps ({steps}), global_batch ({global_batch}), micro_batch ({micro_batch}) and "
                f"negative_groups ({negative_groups}) must be positive, and micro_batch must divide "
                "global_batch"
            )
        self.sources = Sources.plain(len(index)) if sources is None else sources
        self.index = index = self.sources.regraded(index)
        self.config, self.seed, self.negative_groups = config, seed, negative_groups
        self.steps, self.global_batch, self.micro_batch = steps, global_batch, micro_batch
        self.max_chars = max_chars
        self.count = global_batch // micro_batch  # micro-batches a step
        if self.count % negative_groups:
            raise MghError(
                f"training.negative_groups ({negative_groups}) must divide the {self.count} micro-batches "
                f"of a step (global_batch {global_batch} / micro_batch {micro_batch})"
            )
        self.stages: Sequence[Stage] = make_stages(config, steps)
        self._has_levels = functools.lru_cache(maxsize=1)(self._find_levels)
        weighed = self.sources.are_weighed
        self._turns = take_turns(self.stages, self.sources, self._streams()) if weighed else None
        self._coverage = {
            (stage.index, source): self._cover(stage, source, count)
            for stage in self.stages
            for source, count in self._source_steps(stage).items()
        }
        self._tasks = _numbered(index.task_hash) if config.homogeneous else np.zeros(len(index), np.int32)
        # Both sources of a stage, and of the next stage, which is prepared while this one trains; where
        # sources are weighed, each has layouts of its own, which hold a part of the records.
        layouts = 4 * (len(self.sources.configs) if weighed else 1)
        self._layout = functools.lru_cache(maxsize=layouts)(self._make_layout)
        self._lengths = functools.lru_cache(maxsize=3)(self._make_lengths)
        self._micro_batches = functools.lru_cache(maxsize=2)(self._make_micro_batches)

    def stage(self, step: int) -> Stage:
        """The stage that step belongs to; steps count from 0."""
        if not 0 <= step < self.steps:
            raise MghError(f"step {step} lies outside the plan's {self.steps} steps")
        return next(stage for stage in self.stages if step < stage.first_step + stage.steps)

    def epoch(self, step: int) -> int:
        """How often the stage has gone through the records of the source that `step` draws from."""
        return self._place(step)[2]

    def batch(self, step: int) -> np.ndarray:
        """Row numbers of the global batch, int64 [global_batch]; an epoch's last batch may end in `EMPTY`
        (−1) places."""
        origin, source, epoch, position = self._place(step)
        return self._layout(origin, source, epoch)[position].astype(np.int64)

    def records(self, step: int) -> int:
        """The number of records in the global batch."""
        return int(np.count_nonzero(self.batch(step) != EMPTY))

    def lengths(self, step: int, rows: np.ndarray) -> np.ndarray:
        """What these rows weigh in that step's stage, int64, same shape; 0 for `EMPTY`.

        Characters of query, positive and the longest negative of each level of the stage, each text cut at
        `max_chars`: a stand-in for tokens that needs no tokenizer.
        """
        found = np.take(self._lengths(self.stage(step).index), rows).astype(np.int64)
        found[rows == EMPTY] = 0
        return found

    def micro_batches(self, step: int, world_size: int, rank: int) -> np.ndarray:
        """The numbers of this rank's micro-batches of the step, int64 [k], the heaviest first.

        Numbers run from 0 to global_batch / micro_batch − 1 and mean the same micro-batch for every world
        size. Every rank gets k = ceil(micro-batches / world_size); `EMPTY` pads where they do not divide
        evenly. Where they do, what any two ranks weigh differs by at most the batch's longest record minus
        its shortest. If `negative_groups` divides the world size, rank r works on group
        r % negative_groups alone.
        """
        self.stage(step)
        if world_size > self.count:
            raise MghError(self._too_many_ranks(world_size))
        return assign(self.count, self.negative_groups, world_size, rank)

    def local_batch(self, step: int, world_size: int, rank: int) -> np.ndarray:
        """The rows of those micro-batches, int64 [k, micro_batch]; padding ones are all `EMPTY`."""
        numbers = self.micro_batches(step, world_size, rank)
        local = self._micro_batches(step)[numbers]
        local[numbers == EMPTY] = EMPTY
        return local

    def group_of(self, number: int) -> int:
        """The negative group that a micro-batch belongs to, counted from 0."""
        return number % self.negative_groups

    def fingerprint(self, manifest_hash: str) -> str:
        """SHA-256 over everything that the batches depend on: two runs with the same one train on the same
        batches."""
        sizes = [
            self.steps,
            self.global_batch,
            self.micro_batch,
            self.negative_groups,
            self.seed,
            self.max_chars,
        ]
        parts = [PLAN_VERSION, self.config.model_dump(), sizes, manifest_hash]
        said = what_is_said(self.sources.configs)
        if said is not None:  # else as before there was anything to say
            parts.append(said)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def coverage(self) -> list[Coverage]:
        """What each stage trains on, source by source, and how many records lack its levels."""
        return list(self._coverage.values())

    def trained_on(self, stage: Stage) -> np.ndarray:
        """Which records a stage trains on, bool [n]."""
        return np.logical_or.reduce([self._eligible(stage, source) for source in self._source_steps(stage)])

    def brings(self, stage: Stage, *, graded: bool) -> np.ndarray:
        """Which records may come to a stage with a negative of their own, or with one that has a level, bool
        [n]: as `choose_negatives` draws them."""
        fitting, at_levels = self._has_levels(stage), self._find_levels(stage, ungraded=False)
        nearest = _any_of(self.index.level_counts, LEVELS) & (self.config.missing_level == "nearest")
        return (at_levels if graded else fitting) | (nearest & ~fitting)

    def source_uses(self) -> list[SourceUse]:
        """What the run takes from each of `data.train`; empty where they are mixed as they occur."""
        drawn = Counter(turn.stream for turn in self._turns or [])
        steps: Counter[int] = Counter()
        for stream, count in drawn.items():
            steps[stream.source] += count
        return [
            SourceUse(
                self.sources.configs[number],
                self.sources.records(number),
                steps[number],
                steps[number] / self.steps,
                float(epochs_of(number, drawn)),
            )
            for number in sorted(steps)
        ]

    def _place(self, step: int) -> tuple[int, SourceKey, int, int]:
        """The stage in which the epochs that a step draws from began, their source, which of them it is, and
        the batch's position in it."""
        stage = self.stage(step)
        if self._turns is not None:
            stream, before = self._turns[step]
            return stream.origin, stream.source, *divmod(before, stream.batches)
        source, before = stage.source(step)
        batches = self._batches(self._coverage[stage.index, source].eligible)
        return stage.index, source, *divmod(before, batches)

    def _source_steps(self, stage: Stage) -> Mapping[SourceKey, int]:
        """How many of the stage's steps draw from each of its sources."""
        if self._turns is None:
            return dict(stage.source_steps().items())
        turns = self._turns[stage.first_step : stage.first_step + stage.steps]
        return dict(sorted(Counter(turn.stream.source for turn in turns).items()))

    def _streams(self) -> list[dict[int, Stream]]:
        """Of each stage, the epochs of the sources that have records there. A stage goes on with those of an
        earlier one that trains on the same records of the source."""
        streams: list[dict[int, Stream]] = []
        known: dict[tuple[int, bytes], Stream] = {}
        for stage in self.stages:
            streams.append({})
            eligible = self._eligible(stage, "all")
            for number, rows in enumerate(self.sources.rows):
                if records := int(np.count_nonzero(eligible[rows])):
                    which = number, hashlib.sha256(eligible[rows].tobytes()).digest()
                    stream = Stream(number, stage.index, self._batches(records))
                    streams[-1][number] = known.setdefault(which, stream)
            if not streams[-1]:
                raise MghError(f"stage `{stage.name}` has no record to train on")
        return streams

    def _batches(self, records: int) -> int:
        return -(-records // self.global_batch)

    def _cover(self, stage: Stage, source: SourceKey, steps: int) -> Coverage:
        in_source, has_levels = self._in_source(source), self._has_levels(stage)
        lacking = int(np.count_nonzero(in_source & ~has_levels))
        eligible = int(np.count_nonzero(self._eligible(stage, source)))
        if not eligible:
            kind = "" if source == "all" else f"{source} "
            share = stage.ungraded_share
            why = "" if share is None else f", but curriculum.ungraded_share is {float(share):g}"
            raise MghError(f"stage `{stage.name}` has no {kind}record to train on{why}")
        if source != "ungraded":
            self._check_levels(stage)
        name = self.sources.configs[source].path if isinstance(source, int) else source
        return Coverage(stage, name, steps, eligible, lacking, steps / self._batches(eligible))

    def _check_levels(self, stage: Stage) -> None:
        """Of sources that bring levels of their own instead, a stage asks nothing."""
        counts = [
            self.index.level_counts[rows]
            for source, rows in zip(self.sources.configs, self.sources.rows, strict=True)
            if source.levels is None
        ]
        present = [level for level in LEVELS if any(each[:, level].any() for each in counts)]
        absent = [level for level in stage.levels if level not in present]
        if stage.negatives and present and absent:
            raise MghError(
                f"stage `{stage.name}`: no record has a negative of level {absent[0]}; the data has "
                f"levels {present}"
            )

    def _in_source(self, source: SourceKey) -> np.ndarray:
        if source == "all":
            return np.ones(len(self.index), dtype=bool)
        if isinstance(source, int):
            found = np.zeros(len(self.index), dtype=bool)
            found[self.sources.rows[source]] = True
            return found
        graded = _any_of(self.index.level_counts, LEVELS)
        return graded if source == "graded" else ~graded

    def _eligible(self, stage: Stage, source: SourceKey) -> np.ndarray:
        """The source's records that the stage trains on, bool [n]."""
        eligible = self._in_source(source)
        return eligible & self._has_levels(stage) if self.config.missing_level == "skip" else eligible

    def _find_levels(self, stage: Stage, *, ungraded: bool = True) -> np.ndarray:
        """Which records have a negative at the stage's levels, or an `ungraded` one, which fits every stage,
        bool [n]."""
        found = [
            _any_of(self.index.level_counts[rows], [0] * ungraded + list(self.sources.levels(number, stage)))
            for number, rows in enumerate(self.sources.rows)
        ]
        return np.concatenate(found)

    def _make_lengths(self, stage_index: int) -> np.ndarray:
        """Of all rows in a stage, int32 [n]."""
        index, stage = self.index, self.stages[stage_index]
        lengths = np.zeros(len(index), dtype=np.int32)
        for number, rows in enumerate(self.sources.rows):
            for chars in (
                index.query_chars[rows],
                index.positive_chars[rows],
                *(index.level_chars[rows, level] for level in (0, *self.sources.levels(number, stage))),
            ):
                lengths[rows] += chars if self.max_chars is None else np.minimum(chars, self.max_chars)
        return lengths

    def _make_layout(self, stage_index: int, source: SourceKey, epoch: int) -> np.ndarray:
        """One epoch of a source, int32 [batches, global_batch]: every eligible row exactly once."""
        rows = np.flatnonzero(self._eligible(self.stages[stage_index], source)).astype(np.int32)
        return make_layout(
            rows,
            self.index.id_hash,
            self._tasks,
            self._lengths(stage_index),
            global_batch=self.global_batch,
            window=self.config.length_window,
            key=fold_key(self.seed, stage_index, _key_part(source), epoch),
        )

    def _make_micro_batches(self, step: int) -> np.ndarray:
        """The step's batch, int64 [micro-batches, micro_batch]."""
        batch = self.batch(step)
        return make_micro_batches(batch, self.lengths(step, batch), self.micro_batch, self.negative_groups)

    def _too_many_ranks(self, world_size: int) -> str:
        fitting = [
            size
            for size in range(1, self.global_batch // world_size + 1)
            if self.global_batch % size == 0 and self.global_batch // size % self.negative_groups == 0
        ]
        advice = f"training.micro_batch {fitting[-1]} would fit" if fitting else "use fewer ranks"
        return (
            f"{world_size} ranks, but a global batch of {self.global_batch} makes only {self.count} "
            f"micro-batches of {self.micro_batch}: {advice}"
        )


def _key_part(source: SourceKey) -> int:
    """A number for each source, those of `data.train` after the others."""
    return len(SOURCES) + source if isinstance(source, int) else SOURCES.index(source)


def _any_of(level_counts: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Whether a record has a negative of one of these levels, bool [n]."""
    return functools.reduce(np.logical_or, (level_counts[:, level] > 0 for level in levels))


def _numbered(hashes: np.ndarray) -> np.ndarray:
    """The number of each hash among the distinct ones, in the order of their first appearance, int32 [n]."""
    return pa.array(hashes).dictionary_encode().indices.to_numpy()
