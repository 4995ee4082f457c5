"""What a run leaves behind: its configuration, metrics and figures, in the files that resuming and the report
read."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from mgh_ds import files
from mgh_ds.config import dump_config
from mgh_ds.training.config import RunConfig
from mgh_ds.training.json_lines import JsonLines

LIBRARIES = ("torch", "transformers", "deepspeed", "peft", "mteb", "sentence-transformers")


class RunFolder:
    """`runs/<name>`; only rank 0 writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = JsonLines(path / "metrics.jsonl")
        self.ledger = JsonLines(path / "ledger.jsonl")  # which step trained on which records
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

    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`: those steps are about to be trained again."""
        self.metrics.rewind(step)
        self.ledger.rewind(step)

    def sync(self) -> None:
        """Flushes what was logged to the disk."""
        self.metrics.sync()
        self.ledger.sync()


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
