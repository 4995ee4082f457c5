"""The data that a run trains on, as stores."""

from pathlib import Path

from mgh_ds.curriculum import Sources, TrainingPlan
from mgh_ds.records.mixture import Mixture
from mgh_ds.records.store import Store, open_or_convert
from mgh_ds.records.texts import open_texts
from mgh_ds.training.config import RunConfig
from mgh_ds.training.objectives import MntpSettings


def open_training_data(config: RunConfig, path: str, cache_folder: Path) -> Store:
    """The store of one of `data.train`: its records or, where the objective learns from texts, its texts.
    What is not a store already is made one, in `cache_folder`.

    Let one process do it before others ask. Raises MghError for data that are missing, bad or empty.
    """
    objective = config.training.objective
    if isinstance(objective, MntpSettings):
        return open_texts(path, cache_folder, parts=objective.texts, chars=objective.text_chars)
    return open_or_convert(path, cache_folder)


def make_plan(config: RunConfig, records: Mixture) -> TrainingPlan:
    """What a run of `config` trains on, step by step. Raises MghError for a plan that cannot be made."""
    sources = Sources(config.data.train, records.sizes)
    return TrainingPlan(records.index(), config.curriculum, **config.plan_arguments(), sources=sources)
