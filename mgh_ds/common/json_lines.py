"""A file of one JSON object a line that grows with a run: metrics, and the ledger of what was trained on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.errors import MghError


class JsonLines:
    """Each object has a `step`. A killed process can leave a torn last line, which readers leave out and
    `rewind` removes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def entries(self) -> Iterator[dict[str, Any]]:
        """The complete lines, one after another: a ledger outgrows memory."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = None
                if not isinstance(entry, dict) or "step" not in entry:
                    raise MghError(
                        f"{self.path}, line {number} is damaged: repair it, or remove the run and train again"
                    )
                yield entry

    def rewind(self, step: int) -> None:
        """Forgets what was written after `step`: those steps are about to be trained again."""
        with files.new_file(self.path) as file:
            for entry in self.entries():
                if entry["step"] <= step:
                    file.write(json.dumps(entry).encode() + b"\n")

    def sync(self) -> None:
        """Flushes what was appended to the disk."""
        if self.path.exists():
            files.sync_folder(self.path)
