"""A stage may have a loss of its own, and a loss is refused where the records lack what it learns from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines
from mgh_ds.curriculum import CurriculumConfig, TrainingPlan
from mgh_ds.losses.settings import (
    AnyLossSettings,
    CosentSettings,
    DistillSettings,
    InfoNCESettings,
    LevelMarginSettings,
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


def plan_of(graded: list[int], scored: list[int], **curriculum: object) -> TrainingPlan:
    """For records with a negative of each level, or an ungraded one, and with scores as `StoreIndex.scored`
    says."""
    return plan_of_counts(
        [[0, 1, 1, 1, 1] if each else [1, 0, 0, 0, 0] for each in graded], scored, **curriculum
    )


def plan_of_counts(level_counts: list[list[int]], scored: list[int], **curriculum: object) -> TrainingPlan:
    """For records with so many negatives without a level, and of each level."""
    counts = np.array(level_counts, dtype=np.uint8)
    numbers = np.arange(len(counts))
    index = StoreIndex(
        id_hash=numbers.astype(np.uint64),
        task_hash=numbers.astype(np.uint64),
        query_chars=numbers.astype(np.int32),
        positive_chars=numbers.astype(np.int32),
        level_chars=counts.astype(np.int32),
        level_counts=counts,
        scored=np.array(scored, dtype=np.uint8),
    )
    return TrainingPlan(
        index,
        CurriculumConfig(**{"stages": "random", **curriculum}),
        steps=4,
        global_batch=2,
        micro_batch=1,
        seed=0,
    )


@pytest.mark.parametrize(
    ("loss", "graded", "scored", "complaint"),
    [
        (
            ListwiseSettings(),
            [1, 0, 0],
            [0, 0, 0],
            "a negative with a level, which 2 of 3 records of the stage",
        ),
        (MatryoshkaSettings(dims=[4], loss=ListwiseSettings()), [0, 0], [0, 0], "which 2 of 2 records"),
        (SUM, [0, 0], [0, 0], "which 2 of 2"),
        (SUM, [0, 1], [0, 0], None),
        (InfoNCESettings(), [0, 0], [0, 0], None),
        (DistillSettings(), [1, 1], [2, 1], "for the positive and for each of its negatives, which 1 of 2"),
        (DistillSettings(), [1, 1], [2, 2], None),
        (CosentSettings(), [1, 1], [1, 0], "a score for the positive, which 1 of 2"),
        (CosentSettings(), [1, 1], [1, 2], None),
    ],
)
def test_records_without_what_a_loss_needs_are_counted(
    loss: AnyLossSettings, graded: list[int], scored: list[int], complaint: str | None
) -> None:
    if complaint is None:
        remarks = check_needs(plan_of(graded, scored), [loss])
        assert bool(remarks) is (loss is SUM), "one of two records has no level"
        assert all(
            "1 of 2 records do not bring a negative with a level: the part" in words for words in remarks
        )
        return
    with pytest.raises(MghError, match=complaint):
        check_needs(plan_of(graded, scored), [loss])


def test_weights_by_level_want_a_level_somewhere() -> None:
    loss = InfoNCESettings(level_weights=[1, 1, 0.5, 0])
    assert check_needs(plan_of([0, 1], [0, 0]), [loss]) == []
    with pytest.raises(MghError, match="has level_weights, and no record of the stage"):
        check_needs(plan_of([0, 0], [0, 0]), [loss])


def test_levels_that_a_stage_does_not_bring_count_for_nothing() -> None:
    # All have level 4, one an ungraded negative beside it, which fits every stage and keeps level 4 away.
    counts = [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 1]]
    plan = plan_of_counts(counts, [2, 2, 2], stages="level-4")
    for loss in (ListwiseSettings(), LevelMarginSettings(), DistillSettings()):
        check_needs(plan, [loss])
    one_of_level_1 = [*counts, [0, 1, 0, 0, 0]]
    plan = plan_of_counts(one_of_level_1, [2] * 4, stages="level-1", missing_level="in_batch")
    for loss, lacking in ((ListwiseSettings(), 3), (LevelMarginSettings(), 3), (DistillSettings(), 2)):
        with pytest.raises(
            MghError, match=f"which {lacking} of 4 records of the stage `level 1` do not bring"
        ):
            check_needs(plan, [loss])
    nearest = plan_of_counts(one_of_level_1, [2] * 4, stages="level-1")
    check_needs(nearest, [DistillSettings()])
    with pytest.raises(MghError, match="which 1 of 4 records of the stage `level 1` do not bring"):
        check_needs(nearest, [ListwiseSettings()])


def test_records_that_no_stage_draws_need_nothing() -> None:
    check_needs(plan_of([1, 0, 1], [0, 0, 0], ungraded_share=0.0), [ListwiseSettings()])
    with pytest.raises(MghError, match="which 1 of 3 records"):
        check_needs(plan_of([1, 0, 1], [0, 0, 0], ungraded_share=0.5), [ListwiseSettings()])


def test_a_stage_without_negatives_has_no_lists() -> None:
    with pytest.raises(MghError, match="stage `no negatives` brings none"):
        check_needs(plan_of([1], [0], negatives=0), [ListwiseSettings()])
    check_needs(plan_of([1], [1], negatives=0), [CosentSettings()])


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
    choice = Choice(tmp_path, 6, "the newest", {})
    card = " ".join(model_card(config, choice, tmp_path, dim=16, reason=None).split())
    assert card.count("1 × `info_nce` (temperature 0.02") == 1
    assert "+ 1 × `listwise` (kind listnet" in card
    assert "at the widths 16, 8, then `listwise` (kind lambda" in card
    assert "masked by" not in card
    guided = config.replace(training=config.training.replace(guide={"name_or_path": "some/guide"}))
    assert "masked by `some/guide`" in model_card(guided, choice, tmp_path, dim=16, reason=None)
