"""Weights & Biases. Where and how it sends is its own affair: the environment variables WANDB_MODE, of which
`offline` keeps everything in the run's folder, WANDB_API_KEY and the others mean what they always do."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import wandb

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.training.loggers.base import Logger

if TYPE_CHECKING:
    from mgh_ds.training.config import RunConfig

RUN_ID = "wandb.json"
PATIENCE_S = 60  # for a server that does not answer, at the beginning and at the end


class WandbLogger(Logger):
    """A run of W&B with the training step as the axis of every figure.

    The run's id stays in the run's folder, so that a run that is resumed goes on in the same run of W&B.
    """

    def __init__(self, folder: Path, config: "RunConfig", _step: int) -> None:
        """Raises MghError where W&B would ask for a key at the terminal."""
        # Neither the terminal's lines nor the repository are its affair: an address may hold a password.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            init_timeout=PATIENCE_S,
            finish_timeout=PATIENCE_S,
        )
        mode = wandb.setup(quiet).settings.mode
        if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False, verify=False):
            raise MghError(
                "it has no API key: set WANDB_API_KEY or call `wandb login` (WANDB_MODE=offline needs none)"
            )
        self._run = wandb.init(
            id=_run_id(folder),
            resume="allow",
            name=config.name,
            project=config.logging.wandb.project,
            entity=config.logging.wandb.entity,
            dir=str(folder),
            config=config.model_dump(mode="json"),
            settings=quiet,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({**scalars, "step": step})

    def close(self) -> None:
        self._run.finish()


def _run_id(folder: Path) -> str:
    """The id of the W&B run that belongs to a run's folder; at the first call it is made up."""
    path = folder / RUN_ID
    if not path.exists():
        files.write_json(path, {"id": uuid.uuid4().hex})
    return str(files.read_json(path)["id"])
