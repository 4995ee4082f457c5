"""A guide in a training: what it reads, that chunks change nothing, that a resumed run has the same one, and
what is refused. What it masks: tests/losses/test_guide.py."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines
from mgh_ds.curriculum import CurriculumConfig
from mgh_ds.curriculum.loader import MicroBatch, make_micro_batch
from mgh_ds.losses.settings import GuideSettings, InfoNCESettings
from mgh_ds.model.embedder import build_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.settings import Settings, write_settings
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.records.schema import Record
from mgh_ds.training import checkpoint, guide, trainer
from mgh_ds.training.batch import make_batch
from mgh_ds.training.config import RunConfig
from mgh_ds.training.contrastive import Contrastive
from mgh_ds.training.guide import Guide
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.step import accumulate_gradient, embed
from tests.losses.brute_force import mean_loss
from tests.ranks import run_ranks
from tests.records.examples import record_values
from tests.training import run_worker
from tests.training.test_resume import assert_equal_runs, stop

Make = Callable[..., RunConfig]

BERT = GuideSettings(name_or_path="tiny-random/bert")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking DeepSpeed, which is slow to import."""
    monkeypatch.setattr(guide, "device", lambda: torch.device("cpu"))


def laid_out(records: list[Record], negatives: int) -> MicroBatch:
    brought = [record.negatives[:negatives] for record in records]
    return make_micro_batch(records, brought, negatives, seed=0, group=0)


class PlainEngine:
    """One process without DeepSpeed, as far as a gradient needs it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.train, self.coalesce_grad_reduction = model, model.train, contextlib.nullcontext

    def __call__(self, tokens: Any) -> Any:
        return self.model(tokens)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


@pytest.mark.parametrize(("margin", "masked"), [(0.0, 2), (-2.0, 0)])
def test_texts_that_are_one_to_the_guide_are_no_negatives(margin: float, masked: int, tiny_run: Make) -> None:
    """The guide's tokenizer knows no capitals; the hashes tell the two positives apart."""
    positives = ["The boat enters the harbour.", "THE BOAT enters the harbour."]
    records = [Record.model_validate(record_values(n, positive=text)) for n, text in enumerate(positives)]
    config = tiny_run(guide=BERT.replace(margin=margin))
    objective = Contrastive(config)
    assert objective.guide is not None
    batch = objective.make_batch(laid_out(records, 0), build_model(config.model)[1], 0)
    batch = objective.guide.embedded(batch)
    embeddings = torch.nn.functional.normalize(torch.randn(2, 2, 8), dim=-1)
    statistics = objective.losses[0](embeddings, batch.labels).statistics
    assert {name: [int(part) for part in ratio] for name, ratio in statistics.items()} == {
        "masked_share": [masked, 2],
        "guided_share": [masked, 2],
    }


@pytest.mark.parametrize("size", [8, 3])
def test_chunks_do_not_change_what_a_guide_masks(size: int, tiny_run: Make, short_records: Path) -> None:
    """Against the loss written out with loops, over what the guide's `Encoder` makes of all texts, each on
    its own."""
    config = tiny_run(
        dropout=0.0, guide=BERT.replace(margin=0.02), loss=InfoNCESettings(temperature=0.1, symmetric=True)
    )
    model, tokenizer = build_model(config.model, seed=3)
    records = [Record.model_validate_json(line) for line in short_records.read_text().splitlines()[:8]]
    whole = laid_out(records, 1)
    encoder = Encoder.from_pretrained(BERT.name_or_path, padding_free=False)
    vectors = torch.from_numpy(encoder.encode([*whole.queries, *whole.documents], batch_size=1))
    reference = make_batch(whole, tokenizer)
    labels = replace(reference.labels, guide=reference.by_record(vectors))
    expected = mean_loss(embed(model, reference), labels, config.training.loss, config.training.guide)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(expected, trained)
    assert expected < mean_loss(embed(model, reference), labels, config.training.loss) - 0.05

    objective = Contrastive(config)
    assert objective.guide is not None
    parts = [laid_out(records[first : first + size], 1) for first in range(0, 8, size)]
    batches = [objective.guide.embedded(objective.make_batch(part, tokenizer, 0)) for part in parts]
    result = accumulate_gradient(PlainEngine(model), batches, objective.losses[0], 8).read()
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert 0 < result.statistics["guided_share"] < 1
    for weight, gradient in zip(trained, gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_guided_run_that_goes_on_equals_one_that_never_stopped(
    tiny_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it goes on with no other guide, though it be of the same name."""
    make_tiny_model("bert", tmp_path / "guide", seed=1)
    config = tiny_run(steps=3, checkpoint_every=1, guide={"name_or_path": str(tmp_path / "guide")})
    whole, again = config.replace(name="whole"), config.replace(name="again")
    run_ranks(1, run_worker.train, whole)
    steps = [line for line in JsonLines(whole.path / "metrics.jsonl").entries() if line["kind"] == "step"]
    assert all(0 < step["statistics"]["guided_share"] < 1 for step in steps)
    shutil.copytree(whole.path, again.path)
    shutil.rmtree(again.path / "checkpoints" / "step-000003")
    assert "2 of 3 steps are done" in run_ranks(1, run_worker.train, again)[0]
    assert_equal_runs(again, whole)

    make_tiny_model("bert", tmp_path / "other", seed=2)
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "guide" / "model.safetensors")
    monkeypatch.setattr(trainer, "build_run_model", stop)  # a start that is not refused comes to here
    monkeypatch.setattr(RunFolder, "hold", lambda _: None)  # errors keep what failed, and so its lock, alive
    with pytest.raises(MghError, match=r"differing: guide\.model\.safetensors: \w+ → \w+\. "):
        trainer.Trainer(again, RunFolder(again.path))
    accepted = again.replace(accept_changes=["guide.model.safetensors"])
    with pytest.raises(ZeroDivisionError):
        trainer.Trainer(accepted, RunFolder(again.path))


def identity_of(config: RunConfig, **identity: Any) -> dict[str, Any]:
    run: Any = SimpleNamespace(
        config=config,
        held_out=None,
        store=SimpleNamespace(manifest_hash="store"),
        plan=SimpleNamespace(fingerprint=lambda _: "plan"),
        backbone={"recipe": "tiny"},
        objective=SimpleNamespace(identity=identity),
    )
    return trainer.Trainer._identity(run)


def test_a_run_without_a_guide_is_known_as_ever(tiny_run: Make, tmp_path: Path) -> None:
    without, guided = identity_of(tiny_run()), identity_of(tiny_run(guide=BERT), guide={"recipe": "bert"})
    assert without.keys() == {"config", "plan", "backbone"}
    assert guided["config"]["training"].keys() - without["config"]["training"].keys() == {"guide"}
    # A run gets a guide, or loses it, if that is what its user wants.
    for before, after in ((without, guided), (guided, without)):
        with pytest.raises(MghError, match=r'"config\.training\.guide", "guide"'):
            checkpoint.check(tmp_path, {"identity": before}, after)
        checkpoint.check(tmp_path, {"identity": before}, after, ["config.training.guide", "guide"])


def test_only_an_export_that_was_trained_with_instructions_reads_them(tmp_path: Path) -> None:
    make_tiny_model("bert", tmp_path / "model")
    texts = laid_out([Record.model_validate(record_values())], 0)
    tokenizer = Encoder.from_pretrained("tiny-random/bert").tokenizer

    def read(name: str) -> str:
        found = Guide(name, "float32").tokenized(make_batch(texts, tokenizer), texts).guide
        return tokenizer.backend.decode(found[0].input_ids)

    instruction = "given a question"
    assert instruction not in read(str(tmp_path / "model"))
    write_settings(Settings(max_length=64), tmp_path / "model")
    assert read(str(tmp_path / "model")).count(instruction) == 1, "the query's, since the task is asymmetric"
    write_settings(Settings(max_length=64, use_instructions=False), tmp_path / "model")
    assert instruction not in read(str(tmp_path / "model"))


def test_a_guide_that_is_not_there_is_refused_before_anything_is_converted(tiny_run: Make) -> None:
    config = tiny_run(guide={"name_or_path": "no/such-guide"})
    with pytest.raises(MghError, match=r"training\.guide\.name_or_path: no model 'no/such-guide'"):
        trainer.Trainer(config, RunFolder(config.path))
    assert not (config.path / "data").exists()


def test_a_guide_whose_embeddings_are_no_numbers_is_refused(tmp_path: Path) -> None:
    make_tiny_model("bert", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights["encoder.layer.0.output.dense.bias"][:] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(MghError, match=r"training\.guide\.name_or_path: the encoder returned NaN"):
        Guide(str(tmp_path / "model"), "float32")


@pytest.mark.parametrize(
    ("training", "complaint"),
    [
        ({"loss": {"name": "listwise"}}, "training.guide masks .* but the loss is listwise: leave it out"),
        (
            {
                "loss": {
                    "name": "sum",
                    "terms": [{"loss": {"name": "listwise"}}, {"loss": {"name": "cosent"}}],
                }
            },
            "the loss is listwise, cosent",
        ),
        ({"objective": {"name": "mntp"}}, "training.guide masks negatives, and training.objective mntp"),
    ],
)
def test_a_guide_that_has_nothing_to_mask_is_refused(
    training: dict[str, Any], complaint: str, tiny_run: Make
) -> None:
    config = tiny_run().model_dump()
    config["training"] |= training | {"guide": {"name_or_path": "any"}}
    if "objective" in training:
        config["curriculum"] |= {"stages": "random", "negatives": 0}
    with pytest.raises(MghError, match=complaint):
        RunConfig(**config)


def test_only_a_stage_with_info_nce_is_guided(tiny_run: Make) -> None:
    stages = [{"levels": [1]}, {"levels": [4], "loss": {"name": "listwise"}}]
    objective = Contrastive(tiny_run(guide=BERT).replace(curriculum=CurriculumConfig(stages=stages)))
    assert objective.guided == [True, False]
