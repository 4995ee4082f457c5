"""A stage may have a loss of its own, and a loss is refused where the records lack what it learns from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines
from mgh_ds.curriculum import CurriculumConfig
from mgh_ds.curriculum.stages import make_stages
from mgh_ds.losses.settings import (
    AnyLossSettings,
    CosentSettings,
    DistillSettings,
    InfoNCESettings,
    ListwiseSettings,
    MatryoshkaSettings,
    TermSettings,
    WeightedSumSettings,
)
from mgh_ds.records.store import StoreIndex
from mgh_ds.training.choice import Choice
from mgh_ds.training.config import RunConfig
from mgh_ds.training.export import model_card
from mgh_ds.training.needs import check_dims, check_needs
from tests.ranks import run_ranks
from tests.training import run_worker

LIST = {"name": "listwise", "kind": "lambda"}
SUM = WeightedSumSettings(terms=[TermSettings(), TermSettings(loss=ListwiseSettings())])


def staged(config: RunConfig, *stages: dict[str, object]) -> RunConfig:
    curriculum = CurriculumConfig(
        stages=[{"levels": [1, 2, 3, 4], "negatives": 4} | stage for stage in stages]
    )
    return config.replace(curriculum=curriculum)


def test_a_stage_says_what_differs_from_the_common_loss(tiny_run: Callable[..., RunConfig]) -> None:
    common = InfoNCESettings(temperature=0.1, hardness=2.0)
    config = staged(
        tiny_run(loss=common), {}, {"loss": {"name": "info_nce", "temperature": 0.02}}, {"loss": LIST}
    )
    assert config.stage_losses() == [
        common,
        InfoNCESettings(temperature=0.02, hardness=2.0),
        ListwiseSettings(kind="lambda"),
    ]
    written = config.model_dump()["curriculum"]["stages"]
    assert ["loss" in stage for stage in written] == [False, True, True]
    assert RunConfig.model_validate(config.model_dump()).stage_losses() == config.stage_losses()


def test_a_loss_within_a_stages_loss_is_written_with_its_name() -> None:
    matryoshka = MatryoshkaSettings(dims=[8], loss=SUM)
    config = CurriculumConfig(stages=[{"levels": [1], "loss": matryoshka}])
    assert CurriculumConfig.model_validate(config.model_dump()).stages[0].loss == matryoshka


def test_widths_beyond_the_models_are_refused_before_their_stage_comes() -> None:
    losses = [InfoNCESettings(), MatryoshkaSettings(dims=[16, 8])]
    check_dims(losses, 16)
    with pytest.raises(MghError, match="names dims to 16, but the model's embeddings have 12"):
        check_dims(losses, 12)


def test_each_stage_trains_by_its_own_loss(tiny_run: Callable[..., RunConfig]) -> None:
    config = staged(tiny_run(steps=2), {}, {"loss": LIST})
    run_ranks(1, run_worker.train, config)
    steps = [line for line in JsonLines(config.path / "metrics.jsonl").entries() if line["kind"] == "step"]
    assert [list(step["statistics"]) for step in steps] == [["masked_share"], ["ndcg"]]


def index(levels: list[int], scored: list[int]) -> StoreIndex:
    """Of records with one negative, of these levels, and with scores as `StoreIndex.scored` says."""
    n = len(levels)
    counts = np.zeros((n, 5), dtype=np.uint8)
    counts[np.arange(n), levels] = 1
    numbers = np.arange(n)
    return StoreIndex(
        id_hash=numbers.astype(np.uint64),
        task_hash=numbers.astype(np.uint64),
        query_chars=numbers.astype(np.int32),
        positive_chars=numbers.astype(np.int32),
        level_chars=counts.astype(np.int32),
        level_counts=counts,
        scored=np.array(scored, dtype=np.uint8),
    )


@pytest.mark.parametrize(
    ("loss", "levels", "scored", "complaint"),
    [
        (
            ListwiseSettings(),
            [1, 0, 0],
            [0, 0, 0],
            "a negative with a level, which 2 of 3 records of data.train",
        ),
        (MatryoshkaSettings(dims=[4], loss=ListwiseSettings()), [0, 0], [0, 0], "which 2 of 2 records"),
        (SUM, [0, 0], [0, 0], "which 2 of 2"),
        (SUM, [0, 3], [0, 0], None),
        (InfoNCESettings(), [0, 0], [0, 0], None),
        (DistillSettings(), [1, 1], [2, 1], "for the positive and for each of its negatives, which 1 of 2"),
        (DistillSettings(), [1, 1], [2, 2], None),
        (CosentSettings(), [1, 1], [1, 0], "a score for the positive, which 1 of 2"),
        (CosentSettings(), [1, 1], [1, 2], None),
    ],
)
def test_records_without_what_a_loss_needs_are_counted(
    loss: AnyLossSettings, levels: list[int], scored: list[int], complaint: str | None
) -> None:
    stages = make_stages(CurriculumConfig(stages="random"), 3)
    if complaint is None:
        check_needs(index(levels, scored), stages, [loss])
        return
    with pytest.raises(MghError, match=complaint):
        check_needs(index(levels, scored), stages, [loss])


def test_a_stage_without_negatives_has_no_lists() -> None:
    stages = make_stages(CurriculumConfig(stages="random", negatives=0), 3)
    with pytest.raises(MghError, match="stage `no negatives` brings none"):
        check_needs(index([1], [0]), stages, [ListwiseSettings()])
    check_needs(index([1], [1]), stages, [CosentSettings()])


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        ({"temperature": 0.1}, r"stages\[0\].loss.name is missing: it must be one of info_nce, listwise"),
        ({"name": "lstwise"}, r"stages\[0\].loss.name must be one of .* did you mean `listwise`"),
        ({"name": "listwise", "hardness": 1.0}, "loss.hardness belongs to info_nce, but .*name is listwise"),
    ],
)
def test_a_stages_loss_is_checked_by_key(loss: dict[str, object], complaint: str) -> None:
    with pytest.raises(MghError, match=complaint):
        CurriculumConfig(stages=[{"levels": [1], "loss": loss}])


def test_the_model_card_names_every_loss(tiny_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = staged(
        tiny_run(loss={"name": "matryoshka", "dims": [16, 8], "loss": SUM.model_dump()}),
        {},
        {},
        {"loss": LIST},
    )
    card = " ".join(model_card(config, Choice(tmp_path, 6, "the newest", {}), tmp_path).split())
    assert card.count("1 × `info_nce` (temperature 0.02") == 1
    assert "+ 1 × `listwise` (kind listnet" in card
    assert "at the widths 16, 8, then `listwise` (kind lambda" in card
