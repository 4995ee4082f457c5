"""What a run knows of a logger: numbers with names go in, at a step; what becomes of them is the logger's
affair."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mgh_ds.training.config import RunConfig


class Logger(ABC):
    """A place to which a run's figures go while it trains. Only rank 0 has one.

    Whatever it raises ends the logger, not the run: one line on the terminal says what was raised. What a
    person can mend is an MghError. What it writes into the run's folder must hold no secret.
    """

    @abstractmethod
    def __init__(self, folder: Path, config: "RunConfig", step: int) -> None:
        """Opens it.

        Args:
            folder: the run's, in which a logger has a folder or a file of its own.
            config: the recipe as resolved.
            step: the run goes on behind this one, or begins anew if it is −1. If steps beyond it were logged
                before, they are about to be trained, and logged, again.
        """

    @abstractmethod
    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes the numbers of one line of `metrics.jsonl`, by the names that `scalars.py` gives them. Steps
        count from 1 and do not always rise: a checkpoint is reported when it has been written."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more comes."""
