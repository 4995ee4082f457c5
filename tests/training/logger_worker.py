"""What a rank does in the tests of loggers: trains in an environment of its own, with packages taken away or
a logger that breaks."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from mgh_ds.training.config import RunConfig
from mgh_ds.training.loggers.opening import open_loggers
from tests.training import run_worker
from tests.training.run_worker import Fault


def train(config: RunConfig, environment: Mapping[str, str], *faults: Fault) -> int:
    os.environ |= environment
    return run_worker.train(config, *faults)


def train_with_breaking_loggers(config: RunConfig, environment: Mapping[str, str]) -> int:
    """TensorBoard is not installed; W&B takes one step, and then the network breaks."""
    from mgh_ds.training.loggers import weights_and_biases

    class Breaking:
        def __init__(self, *_: Any) -> None:
            self.lines = 0

        def log(self, *_: Any) -> None:
            self.lines += 1
            if self.lines > 1:
                raise ConnectionError("the network\nis gone")

        def close(self) -> None:
            raise AssertionError("it was left out already")

    weights_and_biases.WandbLogger = Breaking  # type: ignore[misc, assignment]
    sys.modules["tensorboard"] = None  # type: ignore[assignment]
    return train(config, environment)


def open_and_close(config: RunConfig, environment: Mapping[str, str]) -> None:
    """Opens the loggers without a run."""
    os.environ |= environment
    with open_loggers(config, config.path, step=0):
        pass
