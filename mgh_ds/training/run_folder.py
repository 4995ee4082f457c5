"""What a run leaves behind: its configuration, metrics and figures, in the files that resuming and the report
read."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.common.config import dump_config
from mgh_ds.common.json_lines import JsonLines
from mgh_ds.training.config import RunConfig

TOKEN_WEIGHTS = "token_weights.json"  # of a few held-out texts
RETRIEVED_WEIGHTS = "retrieved_weights.json"  # of what the results show of retrieval
LIBRARIES = ("torch", "transformers", "deepspeed", "peft", "mteb", "sentence-transformers")  # where installed


class RunFolder:
    """`runs/<name>`; only rank 0 writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = JsonLines(path / "metrics.jsonl")
        self.ledger = JsonLines(path / "ledger.jsonl")  # which step trained on which records
        self.checkpoints = path / "checkpoints"
        self.export = path / "export"
        self.store_cache = path / "data"

    def hold(self) -> None:
        """Keeps the folder to this process until it ends. Raises MghError if another one is at work in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = files.hold_folder(
            self.path,
            held=f"another job is training in {self.path}: wait for it, end it, or choose another --name",
            lockless="see that no second job trains in it",
        )

    def start(self, config: RunConfig, backbone: Mapping[str, str], step: int | None) -> None:
        """Writes the resolved configuration and the backbone's fingerprint, and forgets what was logged after
        `step`: those steps are about to be trained again. None: there is no checkpoint to go on from, and
        nothing of an earlier attempt, whose recipe may have been another, counts."""
        files.write_text(self.path / "config.yaml", dump_config(config))
        files.write_json(self.path / "backbone.json", dict(backbone))
        self.metrics.rewind(-1 if step is None else step)
        self.ledger.rewind(-1 if step is None else step)
        if step is None:
            shutil.rmtree(self.path / "evaluation", ignore_errors=True)
            for name in (TOKEN_WEIGHTS, RETRIEVED_WEIGHTS):
                (self.path / name).unlink(missing_ok=True)

    def evaluation(self, label: str) -> Path:
        """The result of an evaluation: "before", "after", or "step-000050"."""
        return self.path / "evaluation" / f"{label}.json"

    def keep_weights(self, name: str, label: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Puts `entries` of `text_weights` in the place of those that the file has of the same `label`."""
        path = self.path / name
        kept = files.read_json(path) if path.exists() else []
        files.write_json(path, [*(entry for entry in kept if entry["label"] != label), *entries])

    def sync(self) -> None:
        """Flushes what was logged to the disk."""
        self.metrics.sync()
        self.ledger.sync()


def versions() -> dict[str, str]:
    """Python, platform and the libraries that results depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def device_name() -> str:
    """The accelerator's name, or the processor's and its core count."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
