"""What every cell of a grid is scored on: MTEB tasks, and held-out records' hardest negatives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgh_ds.ablation.grid import Cell
from mgh_ds.ablation.scores import HARD_NEGATIVES, Score
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.commands import load_tasks
from mgh_ds.evaluation.levels import level_accuracy
from mgh_ds.evaluation.run import evaluate
from mgh_ds.model.encoder import Encoder
from mgh_ds.records.store import Store


class CellScoring:
    """Scores one task after another; `revisions` says, in their order, which data each of them has: the hub's
    revision, the checksum of local files, or the hash of the records."""

    def __init__(self, tasks: Sequence[str], data_dir: Path | None, held_out: Store | None) -> None:
        """Raises MghError for an unknown task and for data that are not there."""
        self._data_dir, self._held_out = data_dir, held_out
        self.revisions = {task.metadata.name: _revision(task) for task in self._load(list(tasks))}
        if held_out is not None:
            self.revisions[HARD_NEGATIVES] = held_out.manifest_hash

    def score(self, encoder: Encoder, cell: Cell, task: str) -> Score:
        """The main score of one task. Raises MghError for records without a graded negative."""
        if task == HARD_NEGATIVES:
            return self._hard_negatives(encoder, cell)
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

    def _hard_negatives(self, encoder: Encoder, cell: Cell) -> Score:
        assert self._held_out is not None
        levels = level_accuracy(
            encoder, list(self._held_out), instructions=cell.config.model.use_instructions
        )
        if not levels:
            raise MghError(f"{self._held_out.path} has no graded negatives to score")
        hardest = levels[max(levels, key=int)]
        return Score(metric="accuracy", score=hardest["accuracy"], revision=self.revisions[HARD_NEGATIVES])

    def _load(self, names: list[str]) -> list[Any]:
        return load_tasks(names, self._data_dir, ["eng"])


def _revision(task: Any) -> str:
    return str(task.metadata.dataset["revision"])
