"""A small run on a tiny random Mistral: a config, and a store of the sample's short records."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mgh_ds.curriculum import CurriculumConfig
from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, StoreWriter
from mgh_ds.training.config import DataConfig, RunConfig
from tests.records.examples import record_values

SAMPLE = Path("mgh_ds/records/sample/train.jsonl")


@pytest.fixture(scope="session")
def short_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 40 short records."""
    path = tmp_path_factory.mktemp("data") / "short.jsonl"
    lines = [line for line in SAMPLE.read_text(encoding="utf-8").splitlines() if '"short-short"' in line]
    path.write_text("\n".join(lines[:40]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """53 records, so that an epoch's fourth batch is not full."""
    path = tmp_path_factory.mktemp("store") / "store"
    with StoreWriter(path) as writer:
        for number in range(53):
            query = f"What is fact {number}? " + "ä" * (number * number % 90)
            writer.add(Record.model_validate(record_values(number, query=query.strip())))
    return Store.open(path)


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
                name_or_path="tiny-random/mistral",
                lora=LoraConfig(rank=4, dropout=dropout),
                max_length=96,
                dtype=dtype,
            ),
            data=DataConfig(train=[str(short_records)]),
            training=sizes | training,  # type: ignore[arg-type]
            curriculum=CurriculumConfig(homogeneous=False),
        )

    return make
