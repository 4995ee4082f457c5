"""Who writes the text: a scripted engine, any OpenAI-compatible endpoint, or vLLM in a child process.

A new engine is a module with two functions, and a row in `ENGINES`:

    check(config)              what can be said without starting it; raises MghError for what cannot work
    open_engine(config, log)   starts it, an `Engine` (see `port.py`); what it prints goes to the file `log`

A module is imported when its engine is asked for, and only there may it import what it needs.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgh_ds.synthesis.config import EngineConfig
    from mgh_ds.synthesis.engines.port import Engine

ENGINES: dict[str, str] = {
    "scripted": "mgh_ds.synthesis.engines.scripted",
    "endpoint": "mgh_ds.synthesis.engines.endpoint",
    "vllm": "mgh_ds.synthesis.engines.vllm_process",
}


def check_engine(config: "EngineConfig") -> None:
    """What can be said about an engine without starting it. Raises MghError for what cannot work."""
    _module(config.kind).check(config)


def open_engine(config: "EngineConfig", log: Path) -> "Engine":
    """Starts the engine of a configuration; what it prints goes to the file `log`."""
    engine: Engine = _module(config.kind).open_engine(config, log)
    return engine


def _module(kind: str) -> Any:
    return importlib.import_module(ENGINES[kind])
