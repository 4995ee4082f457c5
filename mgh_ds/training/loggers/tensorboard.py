"""TensorBoard: event files in the run's folder, shown by `tensorboard --logdir RUN/tensorboard`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from mgh_ds.training.loggers.base import Logger

if TYPE_CHECKING:
    from mgh_ds.training.config import RunConfig

FOLDER = "tensorboard"


class TensorBoardLogger(Logger):
    """Writes a scalar for each number. On resuming a new file tells readers to forget the steps that are
    trained again."""

    def __init__(self, folder: Path, config: "RunConfig", step: int) -> None:
        again = step + 1 if (folder / FOLDER).exists() else None  # 0 where the run begins anew
        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=again)
        self._writer.add_text("name", config.name, max(step, 0))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # else a killed run would lack steps before its checkpoint

    def close(self) -> None:
        self._writer.close()
