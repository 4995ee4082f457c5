"""A file of one JSON object a line that grows with a run: metrics, and the ledger of what was trained on."""

import json
from pathlib import Path
from typing import Any

from mgh_ds import files
from mgh_ds.errors import MghError


class JsonLines:
    """Each object has a `step`. A killed process can leave a torn last line, which readers leave out and
    `rewind` removes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """The complete lines."""
        if not self.path.exists():
            return []
        *lines, _torn = self.path.read_text(encoding="utf-8").split("\n")
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError as error:
            raise MghError(f"{self.path} is damaged: {error}; remove the run and train again") from None

    def rewind(self, step: int) -> None:
        """Forgets what was written after `step`: those steps are about to be trained again."""
        kept = [json.dumps(entry) + "\n" for entry in self.entries() if entry["step"] <= step]
        files.write_text(self.path, "".join(kept))

    def sync(self) -> None:
        """Flushes what was appended to the disk."""
        if self.path.exists():
            files.sync_folder(self.path)
