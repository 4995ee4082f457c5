"""One step of real ranks: the same with dropout for every world size, and a clear end when numbers are no
numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import Loader, TrainingPlan
from mgh_ds.model.embedder import build_model
from mgh_ds.records.schema import Record
from mgh_ds.records.store import open_or_convert
from mgh_ds.training.batch import make_batch
from mgh_ds.training.config import RunConfig
from mgh_ds.training.engine import check_precision
from mgh_ds.training.step import embed
from tests.ranks import run_ranks
from tests.training import run_worker

Make = Callable[..., RunConfig]


def test_dropout_is_the_same_for_every_world_size(tiny_run: Make, tmp_path: Path) -> None:
    """One update with dropout on 1 and on 3 ranks; Adam's first step is ±lr an entry, so a different draw
    would show."""
    config = tiny_run(dropout=0.3)
    for world_size in (1, 3):
        run_ranks(world_size, run_worker.save_first_gradient, config, tmp_path)
    one, three = (load_file(tmp_path / f"{world_size}.safetensors") for world_size in (1, 3))
    without = tmp_path / "without"
    without.mkdir()
    run_ranks(1, run_worker.save_first_gradient, tiny_run(dropout=0.0), without)
    dry = load_file(without / "1.safetensors")
    for name, weights in one.items():
        torch.testing.assert_close(three[name], weights, rtol=1e-3, atol=1e-6)
    assert any(not torch.allclose(dry[name], weights, atol=1e-6) for name, weights in one.items()), (
        "dropout was on"
    )


def test_a_micro_batch_is_one_pack_or_two_padded_batches(tiny_run: Make, tmp_path: Path) -> None:
    config = tiny_run()
    store = open_or_convert(config.data.paths[0], tmp_path)
    plan = TrainingPlan(store.index(), config.curriculum, steps=3, global_batch=8, micro_batch=8, seed=0)
    (batch,) = Loader(store, plan).micro_batches(0, 1, 0)
    model, tokenizer = build_model(config.model)
    packed = make_batch(batch, tokenizer)
    tokenizer.padding_free = False
    padded = make_batch(batch, tokenizer)
    assert (len(packed.tokens), len(padded.tokens)) == (1, 2)
    assert packed.size == padded.size
    assert packed.size.texts == len(batch.queries) + len(batch.documents)
    assert padded.size.padded_tokens == sum(part.input_ids.numel() for part in padded.tokens)
    assert packed.size.tokens == packed.tokens[0].tokens < packed.size.padded_tokens
    torch.testing.assert_close(embed(model, packed), embed(model, padded), atol=1e-5, rtol=0)


def test_nan_is_traced_to_the_records_that_cause_it(tiny_run: Make, short_records: Path) -> None:
    records = [Record.model_validate_json(line) for line in short_records.read_text().splitlines()]
    word = max((w for r in records for w in r.query.split()), key=len)
    guilty = [record.id for record in records if word in record.query]
    config = tiny_run(global_batch=40, micro_batch=4, steps=3)
    outputs = run_ranks(2, run_worker.train_with_poison, config, word)
    assert any(guilty)
    for rank, output in enumerate(outputs):
        assert f"rank {rank}: MghError: 3 steps in a row were skipped (steps 1, 2, 3): an embedding" in output
    bad = files.read_json(config.path / "bad_steps.json")
    assert [entry["ids"] for entry in bad] == [sorted(guilty)] * 3


def test_float16_is_refused_with_a_reason(tiny_run: Make) -> None:
    model = tiny_run(dtype="float16").model
    with pytest.raises(MghError, match="float16: CPUs"):
        check_precision(model, torch.device("cpu"))
    with pytest.raises(MghError, match="overflow"):
        check_precision(model, torch.device("cuda"))


def test_bfloat16_trains(tiny_run: Make) -> None:
    config = tiny_run(dtype="bfloat16", steps=3, checkpoint_every=3).replace(name="bfloat16")
    run_ranks(2, run_worker.train, config)
    assert (config.path / "checkpoints" / "step-000003").is_dir()
    assert (config.path / "run.json").is_file()


def test_a_batch_without_records_is_refused(tiny_run: Make) -> None:
    outputs = run_ranks(2, run_worker.train_on_empty_batches, tiny_run())
    for rank, output in enumerate(outputs):
        assert f"rank {rank}: MghError: a global batch without a single record" in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "training.learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "training.learning_rate must be finite"),
        ({"warmup_steps": -5}, "training.warmup_steps must not be negative"),
        ({"checkpoint_every": 0}, "training.checkpoint_every must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_run: Make, changes: dict[str, float], message: str) -> None:
    with pytest.raises(MghError, match=message):
        tiny_run(**changes)
