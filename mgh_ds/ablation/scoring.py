"""What every cell of a grid is scored on: MTEB tasks, and what becomes of held-out records' levels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgh_ds.ablation.grid import Cell
from mgh_ds.ablation.scores import LEVEL_ORDER, OF_HELD_OUT, Score
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.commands import load_tasks
from mgh_ds.evaluation.levels import GradedMargin, by_level, graded_margins, order
from mgh_ds.evaluation.run import evaluate
from mgh_ds.model.encoder import Encoder
from mgh_ds.records.store import Store


class CellScoring:
    """Scores one task after another; `revisions` says, in their order, which data each of them has: the hub's
    revision, the checksum of local files, or the hash of the records."""

    def __init__(self, tasks: Sequence[str], data_dir: Path | None, held_out: Store | None) -> None:
        """Raises MghError for an unknown task, for data that are not there, and for held-out records without
        a graded negative."""
        self._data_dir, self._held_out = data_dir, held_out
        self.revisions = {task.metadata.name: _revision(task) for task in self._load(list(tasks))}
        if held_out is not None:
            if not held_out.index().level_counts[:, 1:].any():
                raise MghError(f"{held_out.path} has no graded negatives to score")
            self.revisions |= dict.fromkeys(OF_HELD_OUT, held_out.manifest_hash)
        self._last: tuple[Encoder, list[GradedMargin]] | None = None

    def score(self, encoder: Encoder, cell: Cell, task: str) -> Score:
        """The main score of one task."""
        if task in OF_HELD_OUT:
            return self._of_held_out(encoder, cell, task)
        [loaded] = self._load([task])
        result = evaluate(
            encoder,
            [loaded],
            label=cell.name,
            batch_size=cell.config.evaluation.batch_size,
            instructions=cell.config.model.use_instructions,
            progress=False,
        )
        ((_, found),) = result.tasks.items()
        return Score(metric=found["metric"], score=found["score"], revision=_revision(loaded))

    def _of_held_out(self, encoder: Encoder, cell: Cell, task: str) -> Score:
        margins = self._margins(encoder, cell)
        metric, revision = OF_HELD_OUT[task], self.revisions[task]
        if task == LEVEL_ORDER:
            return Score(metric=metric, score=order(margins), revision=revision)
        levels = by_level(margins)
        hardest = levels[max(levels, key=int)]
        return Score(metric=metric, score=hardest["accuracy"], revision=revision, levels=levels)

    def _margins(self, encoder: Encoder, cell: Cell) -> list[GradedMargin]:
        """Of the held-out records; an encoder's are kept until another comes."""
        assert self._held_out is not None
        if self._last is None or self._last[0] is not encoder:
            records = list(self._held_out)
            found = graded_margins(encoder, records, instructions=cell.config.model.use_instructions)
            self._last = encoder, found
        return self._last[1]

    def _load(self, names: list[str]) -> list[Any]:
        return load_tasks(names, self._data_dir, ["eng"])


def _revision(task: Any) -> str:
    return str(task.metadata.dataset["revision"])
