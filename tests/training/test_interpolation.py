"""Weights between those that training began with and the trained ones: what is scored is what is exported,
and training knows nothing of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgh_ds import Encoder
from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model.adapters import DOWN, UP
from mgh_ds.training.config import EvaluationConfig, RunConfig
from mgh_ds.training.evaluations import check_weights, evaluation_lines
from mgh_ds.training.export import export_run
from mgh_ds.training.interpolation import between
from mgh_ds.training.run_folder import RunFolder
from tests.ranks import Ranks, run_ranks
from tests.training import evaluation_worker, run_worker
from tests.training.evaluation_worker import TEXTS
from tests.training.run_worker import Fault
from tests.training.test_resume import assert_equal_runs

Make = Callable[..., RunConfig]


def test_a_share_of_the_way_in_float32() -> None:
    start, learnt = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0])
    assert between(start, learnt, 0.25, "weight").tolist() == [1.5, -1.0]
    assert between(start, learnt, 0.0, "weight").tolist() == [1.0, -2.0]
    assert between(start, learnt, 1.0, "weight") is learnt
    assert between(start, learnt, 0.25, f"layer{DOWN}") is learnt, "B·A is linear in B alone"
    assert between(torch.zeros(2), learnt, 0.25, f"layer{UP}").tolist() == [0.75, 0.5]
    assert between(start.bfloat16(), learnt, 0.25, "weight").dtype == torch.float32


@pytest.mark.parametrize(("adapters", "dtype"), [(True, "float32"), (False, "bfloat16")])
def test_scored_is_what_is_exported_and_training_is_the_same(
    adapters: bool, dtype: str, tiny_run: Make, tmp_path: Path
) -> None:
    """To the bit on two ranks, killed after an evaluation too: while vectors were asked for, the model was
    another."""
    threads = torch.get_num_threads()
    plain = tiny_run(steps=3, checkpoint_every=1, dtype=dtype)
    if not adapters:
        plain = plain.replace(model=plain.model.replace(lora=None))
    halves = EvaluationConfig(tasks=["Made"], every=1, interpolate=0.5)
    half, whole = (
        plain.replace(name=name, evaluation=evaluation)
        for name, evaluation in (("half", halves), ("whole", halves.replace(interpolate=1.0)))
    )
    run_ranks(2, run_worker.train, plain)
    fault = Fault("forward", step=2, after="step-000001")
    with Ranks(2, evaluation_worker.train_keeping_vectors, half, fault) as ranks:
        assert -9 in ranks.wait_for_the_first(timeout=100), ranks.outputs()
    run_ranks(2, evaluation_worker.train_keeping_vectors, half)
    run_ranks(2, evaluation_worker.train_keeping_vectors, whole)
    assert_equal_runs(half, plain)
    assert_equal_runs(whole, plain)

    def scored(run: RunConfig, label: str) -> np.ndarray:
        return np.load(run.path / f"{label}.npy")

    def exported(*options: Any, **more: Any) -> np.ndarray:
        folder = tmp_path / "export"
        export_run(half.path, folder, *options, replace=True, **more)
        encoder = Encoder.from_pretrained(folder, dtype=dtype)
        torch.set_num_threads(1)  # as the ranks have it: bfloat16's sums depend on it
        try:
            return encoder.encode(TEXTS, batch_size=2)
        finally:
            torch.set_num_threads(threads)

    exact = {"atol": 1e-6, "rtol": 0} if adapters else {"atol": 0, "rtol": 0}  # merged, or the same weights
    np.testing.assert_array_equal(scored(half, "before"), scored(whole, "before"))
    np.testing.assert_allclose(exported(), scored(half, "after"), **exact)
    np.testing.assert_allclose(exported(interpolate=1.0), scored(whole, "after"), **exact)
    np.testing.assert_allclose(exported("2"), scored(half, "step-000002"), **exact)
    moved = [np.abs(scored(run, "after") - scored(run, "before")).max() for run in (half, whole)]
    assert 1e-4 < moved[0] < moved[1], "some of the way"

    assert all(line["interpolate"] == 0.5 for line in evaluation_lines(RunFolder(half.path)))
    assert all("interpolate" not in line for line in evaluation_lines(RunFolder(whole.path)))


def test_a_card_and_a_report_tell_the_weights_that_were_scored(tiny_run: Make, tmp_path: Path) -> None:
    evaluation = EvaluationConfig(tasks=["Made"], interpolate=0.25)
    config = tiny_run(steps=3).replace(evaluation=evaluation)
    run_ranks(1, evaluation_worker.train_keeping_vectors, config)
    assert files.read_json(config.path / "run.json")["interpolate"] == 0.25
    says = "The weights lie between its own (0.25) and the backbone's."
    export_run(config.path, tmp_path / "own")
    own = (tmp_path / "own" / "README.md").read_text()
    assert says in own
    assert "| Made, accuracy | 50.00 | 50.00 |" in own
    export_run(config.path, tmp_path / "other", interpolate=0.75)
    other = (tmp_path / "other" / "README.md").read_text()
    assert says.replace("0.25", "0.75") in other
    assert "| Made" not in other, "nobody scored these"
    assert "No scores stand here: the run took them at 0.25." in other
    assert "No scores stand here" not in own


def test_another_share_than_an_earlier_evaluation_is_refused() -> None:
    lines = [{"step": 0, "interpolate": 0.5}, {"step": 5, "interpolate": 0.5}]
    check_weights(lines, 5, 0.5)
    check_weights(lines, 4, 1.0)  # before training all shares are the same, and step 5 will be taken again
    check_weights([{"step": 5}], 5, 1.0)
    with pytest.raises(
        MghError, match=r"after step 5 scored .*interpolate 0\.5, and now it is 1: put it back"
    ):
        check_weights(lines, 5, 1.0)
    with pytest.raises(MghError, match=r"interpolate 1, and now it is 0\.5"):
        check_weights([{"step": 5}], 7, 0.5)
