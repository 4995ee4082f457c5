"""From a store of graded records to the global batches of every step: stages, the plan, the loader."""

from mgh_ds.curriculum.config import CurriculumConfig
from mgh_ds.curriculum.loader import Loader, MicroBatch
from mgh_ds.curriculum.plan import TrainingPlan
from mgh_ds.curriculum.sources import SourceConfig, Sources
from mgh_ds.curriculum.stages import Stage, make_stages

__all__ = [
    "CurriculumConfig",
    "Loader",
    "MicroBatch",
    "SourceConfig",
    "Sources",
    "Stage",
    "TrainingPlan",
    "make_stages",
]
