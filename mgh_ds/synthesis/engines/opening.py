"""From a configuration to its engine."""

import importlib
from pathlib import Path
from typing import Any

from mgh_ds.synthesis.config import EngineConfig
from mgh_ds.synthesis.engines import ENGINES
from mgh_ds.synthesis.engines.port import Engine


def check_engine(config: EngineConfig) -> None:
    """What can be said about an engine without starting it. Raises MghError for what cannot work."""
    _module(config.kind).check(config)


def open_engine(config: EngineConfig, log: Path) -> Engine:
    """Starts the engine of a configuration; what it prints goes to the file `log`."""
    engine: Engine = _module(config.kind).open_engine(config, log)
    return engine


def _module(kind: str) -> Any:
    return importlib.import_module(ENGINES[kind])
