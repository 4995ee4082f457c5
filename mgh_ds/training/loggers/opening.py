"""From a recipe's names to loggers, and what happens when one of them fails: a line, and training goes on."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from mgh_ds.common import extras
from mgh_ds.common.errors import MghError
from mgh_ds.training.config import RunConfig
from mgh_ds.training.loggers import LOGGERS
from mgh_ds.training.loggers.base import Logger
from mgh_ds.training.loggers.scalars import scalars


class Loggers:
    """All loggers of a run, on the rank that logs; on the others there are none. Use it in a `with` block.

    Never raises what a logger raises: that one is left out from then on, and a line says so.
    """

    def __init__(self, loggers: dict[str, Logger] | None = None) -> None:
        self._loggers = loggers or {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, logger in self._loggers.items():
            with _failure_said(name):
                logger.close()
        self._loggers = {}

    def log(self, entry: dict[str, Any]) -> None:
        """Hands on the numbers of a line of `metrics.jsonl`."""
        if not self._loggers:
            return
        figures, alive = scalars(entry), {}
        for name, logger in self._loggers.items():
            with _failure_said(name):
                logger.log(entry["step"], figures)
                alive[name] = logger
        for name in self._loggers.keys() - alive.keys():
            with contextlib.suppress(Exception):  # why it ends is said already
                self._loggers[name].close()
        self._loggers = alive


def open_loggers(config: RunConfig, folder: Path, step: int) -> Loggers:
    """The loggers that the recipe names, for a run that goes on behind `step`; one that cannot be opened is
    left out, with a line."""
    opened = {}
    for name in config.logging.loggers:
        with _failure_said(name):
            opened[name] = _open(name, config, folder, step)
    return Loggers(opened)


def _open(name: str, config: RunConfig, folder: Path, step: int) -> Logger:
    path, extra = LOGGERS[name]
    if extra is not None and extras.lacking(extra):
        raise MghError(f"its package is not installed: {extras.install_line(extra)}")
    module, kind = path.split(":")
    logger: Logger = getattr(importlib.import_module(module), kind)(folder, config, step)
    return logger


@contextlib.contextmanager
def _failure_said(name: str) -> Iterator[None]:
    """Whatever is raised within is said in one line, and goes no farther."""
    try:
        yield
    except Exception as error:  # another package's: whatever it is, it is not worth a run
        what = str(error) if isinstance(error, MghError) else f"{type(error).__name__}: {error}"
        tqdm.write(f"logger {name}: {' '.join(what.split())}; training goes on without it")
