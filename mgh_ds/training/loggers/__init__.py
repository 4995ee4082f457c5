"""Who is told of a run's figures while it trains, beside `metrics.jsonl`, which is always written.

A new logger is a file with a class that has the interface in `base.py`, and a row in `LOGGERS`, under the
name by which recipes choose it. Its module is imported when it is asked for, and only there may it import
what it needs. This table imports nothing, so that what is wrong with a recipe is said before torch is loaded.
"""

from typing import NamedTuple


class LoggerKind(NamedTuple):
    """Where a logger's class is, `module:Class`, and the extra of the package that it needs, if any."""

    path: str
    extra: str | None = None


LOGGERS: dict[str, LoggerKind] = {
    "tensorboard": LoggerKind("mgh_ds.training.loggers.tensorboard:TensorBoardLogger", extra="tensorboard"),
    "wandb": LoggerKind("mgh_ds.training.loggers.weights_and_biases:WandbLogger", extra="wandb"),
}
