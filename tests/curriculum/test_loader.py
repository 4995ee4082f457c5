"""The loader brings the negatives that the stage asks for, and lays records out so that nothing is mistaken
for something."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from mgh_ds.curriculum import CurriculumConfig, Stage, TrainingPlan, make_stages
from mgh_ds.curriculum.loader import choose_negatives, make_micro_batch, text_hashes
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Negative, Record, Task
from mgh_ds.records.store import Store, StoreWriter


def make_record(*levels: int | None, kind: str = "asymmetric", name: str = "r") -> Record:
    return Record(
        id=name,
        task=Task(
            kind=kind, subtype="sts" if kind == "symmetric" else "short-long", instruction="Find the answer"
        ),
        language="en",
        query=f"query {name}",
        positive=f"positive {name}",
        negatives=[
            Negative(text=f"negative {number} {name}", level=level) for number, level in enumerate(levels)
        ],
        source={"dataset": "test"},
    )


def stage_of(order: str, index: int = 0, negatives: int = 1) -> Stage:
    return make_stages(CurriculumConfig(stages=order, negatives=negatives), 30)[index]


def chosen_levels(record: Record, stage: Stage, missing: str = "nearest", key: int = 0) -> list[int | None]:
    return [negative.level for negative in choose_negatives(record, stage, missing, key)]


def test_stages_bring_their_own_levels() -> None:
    record = make_record(1, 2, 3, 4)
    assert chosen_levels(record, stage_of("coarse_to_fine", 0)) == [1]
    assert chosen_levels(record, stage_of("coarse_to_fine", 1, negatives=2)) == [2, 3]
    assert chosen_levels(record, stage_of("coarse_to_fine", 2)) == [4]
    assert chosen_levels(record, stage_of("all")) == [1, 2, 3, 4]


@pytest.mark.parametrize("missing", ["nearest", "in_batch", "skip"])
@pytest.mark.parametrize("order", ["coarse_to_fine", "level-3", "all", "random"])
def test_the_plan_knows_what_records_bring(order: str, missing: str, tmp_path: Path) -> None:
    kinds = (None, *LEVELS)
    subsets = [levels for size in range(len(kinds) + 1) for levels in itertools.combinations(kinds, size)]
    records = [make_record(*levels, name=f"r{number}") for number, levels in enumerate(subsets)]
    with StoreWriter(tmp_path / "store") as writer:
        for record in records:
            writer.add(record)
    config = CurriculumConfig(stages=order, missing_level=missing)
    index = Store.open(tmp_path / "store").index()
    plan = TrainingPlan(index, config, steps=30, global_batch=4, micro_batch=2, seed=0)
    for stage in plan.stages:
        drawn = [
            {level for key in range(40) for level in chosen_levels(record, stage, missing, key)}
            for record in records
        ]
        assert plan.brings(stage, graded=False).tolist() == [bool(levels) for levels in drawn]
        assert plan.brings(stage, graded=True).tolist() == [bool(levels - {None}) for levels in drawn]


def test_where_there_are_more_than_asked_for_all_get_their_turn() -> None:
    record = make_record(1, 2, 3, 4)
    drawn = {chosen_levels(record, stage_of("random"), key=key)[0] for key in range(60)}
    assert drawn == {1, 2, 3, 4}
    assert chosen_levels(record, stage_of("random"), key=7) == chosen_levels(
        record, stage_of("random"), key=7
    )


@pytest.mark.parametrize(
    ("levels", "missing", "expected"),
    [
        ((1, 2), "nearest", [2]),
        ((1, 2), "in_batch", []),
        ((3, 1), "nearest", [3]),
        ((), "nearest", []),
    ],
)
def test_a_record_without_the_level_falls_back(
    levels: tuple[int, ...], missing: str, expected: list[int]
) -> None:
    assert chosen_levels(make_record(*levels), stage_of("level-4"), missing) == expected


def test_on_a_tie_the_harder_level_is_nearer() -> None:
    assert chosen_levels(make_record(1, 3), stage_of("level-2")) == [3]


def test_ungraded_negatives_fit_every_stage() -> None:
    for index in range(3):
        assert chosen_levels(make_record(None), stage_of("coarse_to_fine", index)) == [None]


def test_micro_batches_keep_places_for_what_is_missing() -> None:
    one, two = make_record(4, name="one"), make_record(None, kind="symmetric", name="two")
    negatives = [one.negatives, [], two.negatives]
    batch = make_micro_batch([one, None, two], negatives, 2, seed=9, group=0)
    assert batch.ids == ["one", "", "two"]
    assert batch.documents == [
        "positive one",
        "negative 0 one",
        "",
        "",
        "",
        "",
        "positive two",
        "negative 0 two",
        "",
    ]
    assert batch.valid.tolist() == [True, False, True]
    assert batch.document_valid.tolist() == [[True, True, False], [False] * 3, [True, True, False]]
    assert batch.levels.tolist() == [[4, 0], [0, 0], [0, 0]]
    assert batch.symmetric.tolist() == [False, False, True]
    assert batch.query_instructions == ["Find the answer", None, "Find the answer"]
    assert batch.document_instructions == [None] * 6 + ["Find the answer"] * 3
    assert batch.document_hash.shape == (3, 3)


def test_scores_stand_where_their_texts_do() -> None:
    one, two = make_record(4, 4, name="one"), make_record(None, name="two")
    scored = one.model_copy(
        update={
            "score": 0.1,
            "negatives": [one.negatives[0].model_copy(update={"score": -3.0}), one.negatives[1]],
        }
    )
    batch = make_micro_batch(
        [scored, None, two], [scored.negatives[:1], [], two.negatives], 2, seed=9, group=0
    )
    assert batch.scores.dtype == np.float32
    nan = np.nan
    expected = np.array([[0.1, -3, nan], [nan] * 3, [nan] * 3], dtype=np.float32)
    np.testing.assert_array_equal(batch.scores, expected)


def test_equal_texts_have_equal_hashes_in_every_process() -> None:
    hashes = text_hashes(["a", "b", "a"])
    assert hashes[0] == hashes[2] != hashes[1]
    np.testing.assert_array_equal(text_hashes(["a"]), np.array([3405396810240292928]))
