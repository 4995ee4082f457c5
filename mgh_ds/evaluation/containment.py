"""mteb without its side effects: it seeds the global random generators and talks a great deal."""

import contextlib
import importlib
import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

CACHE_VARIABLE = "MTEB_CACHE"
_LOGGERS = ("mteb", "datasets", "huggingface_hub")


@contextlib.contextmanager
def contained_mteb() -> Iterator[None]:
    """Silences logs, warnings and progress bars of mteb and datasets, and restores every random state.

    mteb seeds `random`, numpy and torch when it is imported and whenever a task is created, so its import
    belongs inside too: an evaluation between two training steps must not change the second. Its import would
    also make a folder for a cache of results, which nothing here uses, and fail where the home is read-only.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    # only this process's own GPU: asking others for their state would take memory on each
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), warnings.catch_warnings(), _no_dataset_bars():
        warnings.simplefilter("ignore")
        try:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            _import_mteb()
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _import_mteb() -> None:
    """Imports mteb while its cache is said to be a folder that exists, unless the user has or names one."""
    if "mteb" in sys.modules:
        return
    lend = CACHE_VARIABLE not in os.environ and not Path("~/.cache/mteb").expanduser().is_dir()
    if lend:
        os.environ[CACHE_VARIABLE] = tempfile.gettempdir()
    try:
        importlib.import_module("mteb")
    finally:
        if lend:
            del os.environ[CACHE_VARIABLE]


@contextlib.contextmanager
def _no_dataset_bars() -> Iterator[None]:
    import datasets

    shown = datasets.are_progress_bars_enabled() if hasattr(datasets, "are_progress_bars_enabled") else True
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
