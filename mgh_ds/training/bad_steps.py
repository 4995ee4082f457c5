"""Steps whose numbers were no numbers: skipped one by one, and the end of the run when they do not stop."""

from typing import Any

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import is_main
from mgh_ds.training.run_folder import RunFolder


class BadSteps:
    """Counts skipped steps in a row, the same on every rank."""

    def __init__(self, limit: int, folder: RunFolder) -> None:
        self.limit, self.folder = limit, folder
        self._row: list[dict[str, Any]] = []

    def clear(self) -> None:
        """A step was applied."""
        self._row = []

    def count(self, entry: dict[str, Any]) -> None:
        """Notes a skipped step, by its line in the metrics.

        Raises MghError on every rank at the limit, with the records of all steps of the row written to
        `bad_steps.json`. The newest checkpoint stands, and the run goes back to it when it is started again.
        """
        self._row.append({name: entry[name] for name in ("step", "reason", "ids")})
        if len(self._row) < self.limit:
            return
        path = self.folder.path / "bad_steps.json"
        if is_main():
            files.write_json(path, self._row)
        steps = ", ".join(str(entry["step"]) for entry in self._row)
        raise MghError(
            f"{self.limit} steps in a row were skipped (steps {steps}): {entry['reason']}. Their records are "
            f"listed in {path}; checkpoints are untouched. Look at those records, lower the learning rate or "
            "raise training.bad_steps_limit, and start again"
        )
