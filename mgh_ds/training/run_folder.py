"""What a run leaves behind: its configuration, metrics and figures, in the files that resuming and the report
read."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from mgh_ds import files
from mgh_ds.config import dump_config
from mgh_ds.errors import MghError
from mgh_ds.training.config import RunConfig

LIBRARIES = ("torch", "transformers", "deepspeed", "peft", "mteb", "sentence-transformers")


class RunFolder:
    """`runs/<name>`; only rank 0 writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.export = path / "export"
        self.store_cache = path / "data"

    def start(self, config: RunConfig) -> None:
        """Writes the resolved configuration."""
        files.write_text(self.path / "config.yaml", dump_config(config))

    def evaluation(self, label: str) -> Path:
        return self.path / "evaluation" / f"{label}.json"

    def anchors(self) -> list[dict[str, Any]]:
        """The token weights kept so far."""
        path = self.path / "anchors.json"
        return files.read_json(path) if path.exists() else []

    def log(self, entry: dict[str, Any]) -> None:
        """Appends one line to the metrics."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The complete lines of the metrics; a torn last line, which a killed run can leave, is left out."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except json.JSONDecodeError as error:
            raise MghError(
                f"{self.metrics_file} is damaged: {error}; remove the run and train again"
            ) from None

    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`: those steps are about to be trained again."""
        kept = [json.dumps(entry) + "\n" for entry in self.metrics() if entry["step"] <= step]
        files.write_text(self.metrics_file, "".join(kept))


def versions() -> dict[str, str]:
    """Python, platform and the libraries that results depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def device_name() -> str:
    """The accelerator's name, or the processor's and its core count."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
