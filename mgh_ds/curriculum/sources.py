"""The sources of a run, the entries of `data.train`: what a recipe says of each, and whose a row is."""

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from mgh_ds.common.errors import MghError
from mgh_ds.common.settings import Settings
from mgh_ds.curriculum.config import Level, distinct
from mgh_ds.curriculum.stages import Stage
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Negative, Record
from mgh_ds.records.store import StoreIndex


class SourceConfig(Settings):
    """Where a source lies, how much of it is taken, and what its negatives' levels mean."""

    path: str
    """A store or file, or the name of bundled records, as where the path stands alone."""
    weight: float | None = Field(default=None, gt=0)
    """Its part of the batches, as against the weights of the other sources. null in every source: they are
    mixed as they occur."""
    max_epochs: float | None = Field(default=None, gt=0)
    """How often the run may go through its records, all stages together; after that the other sources share
    its part. null: as often as it comes."""
    levels: list[Level] | None = Field(default=None, min_length=1)
    """The levels that its negatives come from, in every stage; ungraded ones stay in. null: those of the
    stage."""
    ungraded_level: Level | None = None
    """The level that its ungraded negatives count as. null: they have none, and fit every stage."""

    @field_validator("levels")
    @classmethod
    def _check_levels(cls, levels: list[int] | None) -> list[int] | None:
        return levels and distinct(levels)

    @property
    def said(self) -> dict[str, Any]:
        """What the recipe says beside the path; empty where the path might stand alone."""
        return self.model_dump(exclude={"path"}, exclude_none=True)


def _from_path(source: Any) -> Any:
    if isinstance(source, str):
        return {"path": source}
    if isinstance(source, dict | SourceConfig):
        return source
    raise ValueError(f"must be a path, or a table with a path, found {source!r}")


def _as_written(source: SourceConfig) -> str | dict[str, Any]:
    return {"path": source.path} | source.said if source.said else source.path


# What a recipe may write: a path, or a table; a table that says no more than a path is written back as one.
DataSource = Annotated[
    SourceConfig,
    BeforeValidator(_from_path, json_schema_input_type=str | SourceConfig),
    PlainSerializer(_as_written),
]


def what_is_said(sources: Sequence[SourceConfig]) -> list[dict[str, Any]] | None:
    """What the recipe says of the sources beside their paths, in their order; None where it says nothing."""
    said = [source.said for source in sources]
    return said if any(said) else None


class Sources:
    """The sources as the plan sees them: their rows follow one another.

    Args:
        configs: what the recipe says of each.
        sizes: how many records each has.
    """

    def __init__(self, configs: Sequence[SourceConfig], sizes: Sequence[int]) -> None:
        self.configs = list(configs)
        self._starts = list(accumulate(sizes, initial=0))
        self.rows = [slice(first, end) for first, end in pairwise(self._starts)]

    @classmethod
    def plain(cls, records: int) -> "Sources":
        """One source of which nothing is said."""
        return cls([SourceConfig(path="records")], [records])

    @property
    def are_weighed(self) -> bool:
        """Whether each batch is one source's, by weights or up to caps; else they are mixed as they occur."""
        return any(source.weight or source.max_epochs for source in self.configs)

    def records(self, number: int) -> int:
        """How many records a source has."""
        return self._starts[number + 1] - self._starts[number]

    def name(self, number: int) -> str:
        """As errors call a source."""
        return f"data.train[{number}] ({self.configs[number].path})"

    def regraded(self, index: StoreIndex) -> StoreIndex:
        """The index with each source's ungraded negatives at the level that they count as.

        Raises MghError for a source that lacks what is said of it: levels, or ungraded negatives.
        """
        if not any(source.levels or source.ungraded_level for source in self.configs):
            return index
        counts, chars = index.level_counts.copy(), index.level_chars.copy()
        for number, (source, rows) in enumerate(zip(self.configs, self.rows, strict=True)):
            if source.ungraded_level is not None:
                if not counts[rows, 0].any():
                    raise MghError(
                        f"{self.name(number)}: ungraded_level is {source.ungraded_level}, but it has no "
                        "ungraded negative: leave it out"
                    )
                _move(counts[rows], chars[rows], source.ungraded_level)
            present = [level for level in LEVELS if counts[rows, level].any()]
            absent = [level for level in source.levels or [] if level not in present]
            if absent:
                raise MghError(
                    f"{self.name(number)}: levels names {absent[0]}, but no negative has it; it has levels "
                    f"{present}"
                )
        return dataclasses.replace(index, level_counts=counts, level_chars=chars)

    def levels(self, number: int, stage: Stage) -> tuple[int, ...]:
        """The levels that a source's negatives come from in a stage."""
        own = self.configs[number].levels
        return stage.levels if own is None else tuple(own)

    def as_seen(self, record: Record, row: int, stage: Stage) -> tuple[Record, Stage]:
        """A record with its negatives as its source has them graded, and the stage with the levels that its
        source brings."""
        number = bisect_right(self._starts, row) - 1
        source = self.configs[number]
        if source.ungraded_level is not None:
            negatives = [_graded(negative, source.ungraded_level) for negative in record.negatives]
            record = record.model_copy(update={"negatives": negatives})
        if source.levels is not None:
            stage = dataclasses.replace(stage, levels=self.levels(number, stage))
        return record, stage


def _move(counts: np.ndarray, chars: np.ndarray, level: int) -> None:
    """Counts ungraded negatives as `level`, in place; the columns are those of `StoreIndex`."""
    most = np.iinfo(counts.dtype).max
    counts[:, level] += np.minimum(counts[:, 0], most - counts[:, level])
    chars[:, level] = np.maximum(chars[:, level], chars[:, 0])
    counts[:, 0] = chars[:, 0] = 0


def _graded(negative: Negative, level: int) -> Negative:
    return negative.model_copy(update={"level": level}) if negative.level is None else negative
