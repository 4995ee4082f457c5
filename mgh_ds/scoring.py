"""What a run is scored on while it trains: its held-out records, and MTEB tasks. Training itself knows
nothing of mteb."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.commands import load_tasks
from mgh_ds.evaluation.results import EvaluationResult
from mgh_ds.records.schema import Record
from mgh_ds.training.config import RunConfig
from mgh_ds.training.shared_encoder import SharedEncoder

# mteb is imported inside `contained_mteb` only: its import seeds the global random generators.


class Scoring:
    """The `Scorer` of a run; rank 0 alone reads data and computes scores."""

    def __init__(self, config: RunConfig) -> None:
        self._settings, self._instructions = config.evaluation, config.model.use_instructions
        self._records: Sequence[Record] = ()
        self._tasks: list[Any] = []

    def prepare(self, records: Sequence[Record]) -> dict[str, Any]:
        """Reads the data of all tasks, before a model is loaded; by the name of everything that is scored,
        what tells its data from others.

        Raises MghError for an unknown task, with the nearest name, for data that are missing, and
        for records that fill no task.
        """
        from mgh_ds.evaluation.containment import contained_mteb
        from mgh_ds.evaluation.run import NOTHING_TO_SCORE

        settings = self._settings
        data_dir = Path(settings.data_dir) if settings.data_dir else None
        with contained_mteb():
            from mgh_ds.evaluation.fingerprint import data_of_records, data_of_task
            from mgh_ds.evaluation.heldout import heldout_tasks
            from mgh_ds.evaluation.hub_tasks import load_data

            self._records = records
            self._tasks = load_tasks(settings.tasks, data_dir, settings.languages) if settings.tasks else []
            for task in self._tasks:
                load_data(task)
            data = dict.fromkeys(
                (task.metadata.name for task in heldout_tasks(records)), data_of_records(records)
            )
            data |= {task.metadata.name: data_of_task(task) for task in self._tasks}
        if not data:
            raise MghError(NOTHING_TO_SCORE)
        return data

    def score(self, encoder: SharedEncoder, label: str, output: Path) -> EvaluationResult:
        """Scores `encoder` on everything and writes the result to `output`."""
        from mgh_ds.evaluation.run import evaluate

        return evaluate(
            encoder,
            self._tasks,
            records=self._records,
            label=label,
            output=output,
            batch_size=self._settings.batch_size,
            instructions=self._instructions,
            parallel=encoder.parallel,
        )
