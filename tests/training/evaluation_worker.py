"""What a rank does in the tests of evaluations in the loop: share an encoder, and train while a scorer says
what it was told to say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mgh_ds import scoring, train
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import is_main, process_group, rank, world_size
from mgh_ds.model.embedder import build_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.records.schema import Record
from mgh_ds.scoring import Scoring
from mgh_ds.training import trainer
from mgh_ds.training.config import RunConfig
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.shared_encoder import SharedEncoder, on_all_ranks
from tests.training import run_worker
from tests.training.run_worker import Fault

DATA = {"path": "made", "revision": "1"}
TEXTS = ["a", "two words", "", "a third text, longer than the others", "ünï¢ode ✓", "x " * 90, "y " * 5]


class Scripted:
    """Scores by label as it was told; a label that it was not told anything of fails."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores

    def prepare(self, _: Sequence[Record]) -> dict[str, Any]:
        return {"Made": DATA}

    def score(self, encoder: SharedEncoder, label: str, output: Path) -> Any:
        encoder.encode(TEXTS, batch_size=2)
        if label not in self.scores:
            raise ValueError("the ink has dried up")
        torch.manual_seed(1), np.random.seed(1)
        tasks = {"Made": {"metric": "accuracy", "score": self.scores[label], "data": DATA}}
        files.write_json(output, {"label": label, "model": "", "pooling": "", "tasks": tasks, "levels": {}})
        return SimpleNamespace(tasks=tasks, levels={})


class Keeping(Scripted):
    """Keeps the vectors of the texts by label, and says nothing of their worth."""

    def score(self, encoder: SharedEncoder, label: str, output: Path) -> Any:
        np.save(output.parent.parent / f"{label}.npy", encoder.encode(TEXTS, batch_size=2))
        return super().score(encoder, label, output)


def train_keeping_vectors(config: RunConfig, *faults: Fault) -> int:
    labels = ["before", "after", *(f"step-{step:06d}" for step in range(1, config.training.steps))]
    return run_worker.train(config, *faults, scorer=Keeping(dict.fromkeys(labels, 0.5)))


def train_scripted(config: RunConfig, scores: Mapping[str, float], *faults: Fault) -> int:
    return run_worker.train(config, *faults, scorer=Scripted(scores))


def whole_run(words: list[str], scores: Mapping[str, float]) -> int:
    """All of `mgh-ds train`, with a scripted scorer; its exit code."""
    scoring.Scoring = lambda _: Scripted(scores)  # type: ignore[assignment, misc]
    return train.run(words)


def print_refusals(configs: list[RunConfig]) -> None:
    """The line with which each run is refused, before its model is loaded."""
    trainer.build_run_model = lambda *_, **__: pytest.fail("a model is loaded")  # type: ignore[assignment]
    with process_group():
        for config in configs:
            try:
                trainer.Trainer(config, RunFolder(config.path), Scoring(config))
            except MghError as error:
                print(f"refused: {error}")


def save_shared_vectors(config: RunConfig, out: Path) -> None:
    """Writes rank 0's vectors of `TEXTS`, after calls and work that failed on the way."""
    with process_group():
        torch.set_num_threads(1)
        encoder = Encoder(*build_model(config.model))

        def work(shared: SharedEncoder) -> np.ndarray:
            assert shared.encode([]).shape == (0, encoder.dim)
            with pytest.raises(MghError, match=rf"rank {1 % world_size()}: text 0 holds half of a surrogate"):
                shared.encode(["aaa", "b\ud800", "c"], batch_size=1)
            assert shared.encode(["alone"]).shape == (1, encoder.dim), "ranks without a text"
            return shared.encode(TEXTS, "Find it.", batch_size=2)

        vectors = on_all_ranks(encoder, work)
        assert (vectors is not None) == is_main()
        if vectors is not None:
            np.save(out / f"{world_size()}.npy", vectors)
            np.testing.assert_array_equal(vectors, encoder.encode(TEXTS, "Find it.", batch_size=2))
        try:
            on_all_ranks(encoder, lambda _: 1 / 0)
        except ZeroDivisionError:
            print("divided")
        assert on_all_ranks(encoder, lambda _: "released") == ("released" if rank() == 0 else None)
