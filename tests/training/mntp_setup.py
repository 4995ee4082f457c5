"""What the tests of masked next-token prediction share: a tiny decoder with its head, texts, recipes."""

from pathlib import Path
from typing import Any

from mgh_ds.common import files
from mgh_ds.curriculum import CurriculumConfig
from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.records.store import Store
from mgh_ds.training.config import DataConfig, RunConfig, TrainingConfig
from mgh_ds.training.data import open_training_data
from mgh_ds.training.objectives import MntpSettings

TEXTS = [f"The number of fact {number} is" + " so" * (number * number % 23) for number in range(21)]
STEP = 0  # of 21 texts in three batches of 8, the one that is not full; see the assertion in the test


def make_decoder(folder: Path, family: str = "llama") -> Path:
    """A tiny decoder whose head is its embedding table, as SmolLM2's is."""
    make_tiny_model(family, folder)
    change_config(folder, tie_word_embeddings=True)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    files.write_json(path, files.read_json(path) | changes)


def write_texts(path: Path) -> Path:
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


def mntp_run(model: Path, data: Path, folder: Path, **training: Any) -> RunConfig:
    """A short run; keyword arguments change its training section."""
    sizes = {"steps": 6, "global_batch": 8, "micro_batch": 2, "checkpoint_every": 2, "learning_rate": 1e-2}
    others = {"silence_limit_s": 10, "objective": MntpSettings()}
    return RunConfig(
        name="mntp",
        folder=str(folder / "runs"),
        model=ModelConfig(name_or_path=str(model), lora=LoraConfig(rank=4, dropout=0.1), max_length=48),
        data=DataConfig(train=[str(data)]),
        training=TrainingConfig(**(sizes | others | training)),
        curriculum=CurriculumConfig(stages="random", negatives=0),
        seed=1,
    )


def open_data(config: RunConfig) -> Store:
    """The run's texts."""
    return open_training_data(config, config.data.paths[0], config.path / "data")
