"""A small run on a tiny random Mistral: a config, and a store of the sample's short records."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mgh_ds.curriculum import CurriculumConfig
from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.training.config import DataConfig, RunConfig, TrainingConfig

SAMPLE = Path("mgh_ds/records/sample/train.jsonl")


@pytest.fixture(scope="session")
def short_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 40 short records."""
    path = tmp_path_factory.mktemp("data") / "short.jsonl"
    lines = [line for line in SAMPLE.read_text(encoding="utf-8").splitlines() if '"short-short"' in line]
    path.write_text("\n".join(lines[:40]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tiny_run(short_records: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes a config; keyword arguments change its training section."""

    def make(dropout: float = 0.1, dtype: str = "float32", **training: int | float) -> RunConfig:
        sizes = {
            "steps": 6,
            "global_batch": 8,
            "micro_batch": 2,
            "checkpoint_every": 2,
            "learning_rate": 1e-3,
            "silence_limit_s": 10,
        }
        return RunConfig(
            name="tiny",
            folder=str(tmp_path / "runs"),
            model=ModelConfig(
                "tiny-random/mistral", lora=LoraConfig(rank=4, dropout=dropout), max_length=96, dtype=dtype
            ),
            data=DataConfig(train=[str(short_records)]),
            training=TrainingConfig(**sizes | training),  # type: ignore[arg-type]
            curriculum=CurriculumConfig(homogeneous=False),
        )

    return make
