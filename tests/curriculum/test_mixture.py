"""A mixture's promises: shares within one batch of the weights, no cap exceeded, every record once an epoch,
the same batches for every number of ranks; and without weights, what there was before."""

import itertools
import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import CurriculumConfig, Loader, SourceConfig, Sources, TrainingPlan
from mgh_ds.curriculum.plan import EMPTY
from mgh_ds.curriculum.turns import interleave
from mgh_ds.records.store import StoreIndex
from tests.curriculum.test_loader import make_record
from tests.curriculum.test_plan import CUMULATIVE, ORDERS, ledger, make_index
from tests.effort import MIXTURES

WEIGHTS = st.sampled_from([0.1, 0.25, 1.0, 2.0, 3.5, 7.0])
CAPS = st.sampled_from([None, None, 0.5, 1.0, 1.5, 3.0])
SIZES = {"steps": 24, "global_batch": 8, "micro_batch": 2, "seed": 5}


def sources_of(*said: dict[str, Any], sizes: list[int]) -> Sources:
    return Sources([SourceConfig(path=f"source-{n}", **each) for n, each in enumerate(said)], sizes)


def plan_of(
    *said: dict[str, Any], sizes: list[int], index: StoreIndex | None = None, **changes: Any
) -> TrainingPlan:
    """For a source of each size, of which this is said; `changes` are sizes of the plan or keys of its
    curriculum."""
    arguments = SIZES | {key: changes.pop(key) for key in list(changes) if key in SIZES}
    index = make_index(sum(sizes)) if index is None else index
    return TrainingPlan(
        index, CurriculumConfig(**changes), **arguments, sources=sources_of(*said, sizes=sizes)
    )


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    """All that a mixture is made from."""
    count = draw(st.integers(2, 4))
    weighed = draw(st.booleans())
    said: list[dict[str, Any]] = [
        {"weight": draw(WEIGHTS) if weighed else None, "max_epochs": draw(CAPS)} for _ in range(count)
    ]
    if not weighed:
        said[0]["max_epochs"] = said[0]["max_epochs"] or 2.0
    stages = draw(st.sampled_from(ORDERS + [[{"levels": levels} for levels in each] for each in CUMULATIVE]))
    return {
        "said": said,
        "sizes": [draw(st.integers(1, 60)) for _ in range(count)],
        "steps": draw(st.integers(3, 40)),
        "seed": draw(st.integers(0, 2**40)),
        "stages": stages,
        "homogeneous": draw(st.booleans()),
    }


def made(mixture: dict[str, Any]) -> TrainingPlan:
    return plan_of(*mixture["said"], **{key: value for key, value in mixture.items() if key != "said"})


def made_if_all_take_part(mixture: dict[str, Any]) -> TrainingPlan | None:
    """The plan; None where a source would get no step, or all reach their caps."""
    try:
        return made(mixture)
    except MghError as error:
        if "gets none of the" in str(error) or "every source has reached" in str(error):
            return None
        raise


def source_at(plan: TrainingPlan, step: int) -> int:
    """The source whose records the step's batch holds; fails if there are several."""
    batch = plan.batch(step)
    starts = [rows.start for rows in plan.sources.rows]
    (number,) = set((np.searchsorted(starts, batch[batch != EMPTY], side="right") - 1).tolist())
    return number


@MIXTURES
@given(st.lists(st.fractions(Fraction(1, 100), 50, max_denominator=100), min_size=1, max_size=6))
@example([Fraction(weight) for weight in (8, 8, 8, 1, 1)])  # where whoever lags most would not do
def test_any_first_turns_are_within_one_of_the_shares(weights: list[Fraction]) -> None:
    counts, total = [0] * len(weights), sum(weights)
    for done, number in enumerate(itertools.islice(interleave(dict(enumerate(weights))), 50), start=1):
        counts[number] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert math.floor(done * weight / total) <= count <= math.ceil(done * weight / total)


@MIXTURES
@given(mixtures())
def test_shares_caps_and_epochs_are_kept(mixture: dict[str, Any]) -> None:
    said, sizes, steps = mixture["said"], mixture["sizes"], mixture["steps"]
    epoch = [-(-size // SIZES["global_batch"]) for size in sizes]
    most = [
        steps if each["max_epochs"] is None else min(steps, int(each["max_epochs"] * batches))
        for each, batches in zip(said, epoch, strict=True)
    ]
    if sum(most) < steps:
        with pytest.raises(MghError, match="every source has reached its max_epochs"):
            made(mixture)
        return
    plan = made_if_all_take_part(mixture)
    if plan is None:
        return
    weights = [each["weight"] or batches for each, batches in zip(said, epoch, strict=True)]
    drawn: list[list[np.ndarray]] = [[] for _ in sizes]
    since, able = [0] * len(sizes), list(range(len(sizes)))
    for step in range(steps):
        now = [number for number in range(len(sizes)) if len(drawn[number]) < most[number]]
        if now != able:  # a cap was reached: the shares are those of the others from here
            since, able = [0] * len(sizes), now
        number = source_at(plan, step)
        drawn[number].append(plan.batch(step))
        since[number] += 1
        total = sum(Fraction(repr(weights[each])) for each in able)
        for each in able:
            ideal = sum(since) * Fraction(repr(weights[each])) / total
            assert math.floor(ideal) <= since[each] <= math.ceil(ideal)
    for number, batches in enumerate(drawn):
        assert len(batches) <= most[number]
        rows = set(range(plan.sources.rows[number].start, plan.sources.rows[number].stop))
        for first in range(0, len(batches), epoch[number]):  # through the stages
            held = np.concatenate(batches[first : first + epoch[number]])
            held = held[held != EMPTY]
            assert len(set(held.tolist())) == len(held)
            assert set(held.tolist()) <= rows
            assert set(held.tolist()) == rows or first + epoch[number] > len(batches)
        use = plan.source_uses()[number]
        assert use.steps == len(batches)
        assert use.epochs == pytest.approx(len(batches) / epoch[number])
    assert sum(use.share for use in plan.source_uses()) == pytest.approx(1)


@MIXTURES
@given(mixtures(), st.integers(0, 10**6), st.integers(1, 4))
def test_a_mixture_is_the_same_for_every_world_size_and_order_of_calls(
    mixture: dict[str, Any], number: int, world_size: int
) -> None:
    busy = made_if_all_take_part(mixture)
    if busy is None:
        return
    for step in (number % busy.steps, busy.steps - 1, 0):
        fresh = made(mixture)
        assert ledger(busy, step, world_size) == ledger(fresh, step, 1)
        assert sorted(row for rows in ledger(fresh, step, 1).values() for row in rows) == sorted(
            busy.batch(step).tolist()
        )
    assert busy.fingerprint("m") == made(mixture).fingerprint("m")


def test_paths_alone_change_neither_batches_nor_fingerprint() -> None:
    index, config = make_index(60, ungraded=0.3), CurriculumConfig(ungraded_share=0.25)
    before = TrainingPlan(index, config, **SIZES)
    now = TrainingPlan(index, config, **SIZES, sources=sources_of({}, {}, sizes=[20, 40]))
    assert now.fingerprint("m") == before.fingerprint("m")
    # Of the plan as it was before sources could say anything: runs begun then go on.
    assert before.fingerprint("m") == "8c790b4edaf63ff5e7b566ea527241bf2d6040109a5b1124b4957f414cb824d6"
    assert all(np.array_equal(now.batch(step), before.batch(step)) for step in range(SIZES["steps"]))
    assert now.source_uses() == []


def test_what_is_said_of_a_source_is_part_of_the_fingerprint() -> None:
    said: list[list[dict[str, Any]]] = [
        [{}, {}],
        [{"weight": 1.0}, {"weight": 1.0}],
        [{"weight": 2.0}, {"weight": 1.0}],
        [{"max_epochs": 9.0}, {}],
        [{}, {"max_epochs": 9.0}],
        [{"levels": [1, 2]}, {}],
        [{"ungraded_level": 3}, {}],
    ]
    index = make_index(40, ungraded=0.5)
    prints = {plan_of(*each, sizes=[30, 10], index=index).fingerprint("m") for each in said}
    assert len(prints) == len(said)


def test_without_weights_all_sources_are_gone_through_equally_often_up_to_their_caps() -> None:
    plan = plan_of({}, {"max_epochs": 1.0}, sizes=[64, 32], steps=24)
    steps = [source_at(plan, step) for step in range(24)]
    assert sorted(steps[:12]) == [0] * 8 + [1] * 4
    assert steps[12:] == [0] * 12
    assert [round(use.epochs, 2) for use in plan.source_uses()] == [2.5, 1.0]
    assert (
        plan.source_uses()[1].words
        == "source-1: 4 steps, 16.7% of all, 1.00 of at most 1 epochs of 32 records"
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"max_epochs": 1.0},
            {"max_epochs": 2.0},
            "stage `levels 2, 3` every source has reached its max_epochs after 10 of 24 steps (source-0 2",
        ),
        (
            {"max_epochs": 0.4},
            {},
            "data.train[0] (source-0) gets none of the 24 steps: an epoch has 2 batches, and max_epochs 0.4",
        ),
        (
            {"weight": 0.01},
            {"weight": 1.0},
            "data.train[0] (source-0) gets none of the 24 steps: train longer, raise its weight",
        ),
        (
            {"levels": [4, 3]},
            {},
            "data.train[0] (source-0): levels names 3, but no negative has it; it has levels [1, 2, 4]",
        ),
        (
            {},
            {"ungraded_level": 2},
            "data.train[1] (source-1): ungraded_level is 2, but it has no ungraded negative",
        ),
    ],
    ids=["all caps reached", "cap too low", "weight too low", "level lacking", "nothing ungraded"],
)
def test_what_cannot_be_kept_is_refused_by_source_and_key(
    first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    index = make_index(48)
    index.level_counts[:16, 3] = 0
    with pytest.raises(MghError, match=re.escape(message)):
        plan_of(first, second, sizes=[16, 32], index=index)


def graded_and_mined(sizes: list[int]) -> StoreIndex:
    """A first source with all levels, a second with ungraded negatives, as mined for public pairs."""
    index = make_index(sum(sizes))
    index.level_counts[sizes[0] :] = index.level_chars[sizes[0] :] = 0
    index.level_counts[sizes[0] :, 0] = 3
    index.level_chars[sizes[0] :, 0] = 70
    return index


def test_a_source_whose_levels_no_stage_asks_for_yet_sits_it_out() -> None:
    sizes = [32, 32]
    plan = plan_of(
        {"weight": 1.0},
        {"weight": 1.0, "ungraded_level": 4},
        sizes=sizes,
        index=graded_and_mined(sizes),
        missing_level="skip",
    )
    assert [part.name for part in plan.coverage()] == [
        "level 1, source-0",
        "levels 2, 3, source-0",
        "level 4, source-0",
        "level 4, source-1",
    ]
    assert [part.steps for part in plan.coverage()] == [8, 8, 4, 4]
    trained = [plan.trained_on(stage) for stage in plan.stages]
    assert [each[:32].all() and not each[32:].any() for each in trained] == [True, True, False]
    assert trained[2].all()


def test_levels_of_its_own_stand_in_for_those_of_every_stage() -> None:
    sizes = [32, 32]
    index = graded_and_mined(sizes)
    index.level_counts[:32, [1, 2]] = index.level_chars[:32, [1, 2]] = 0
    with pytest.raises(MghError, match="stage `level 1`: no record has a negative of level 1"):
        plan_of({}, {}, sizes=sizes, index=index)
    plan = plan_of({"levels": [3, 4]}, {}, sizes=sizes, index=index, missing_level="skip")
    assert [(part.eligible, part.lacking) for part in plan.coverage()] == [(64, 0)] * 3
    chars = index.query_chars + index.positive_chars + index.level_chars.sum(axis=1)
    assert plan.lengths(0, np.arange(64)).tolist() == chars.tolist()


class Records:
    """A store of records in memory."""

    manifest_hash = "m"

    def __init__(self, *levels: tuple[int | None, ...]) -> None:
        self.records = [make_record(*each, name=str(row)) for row, each in enumerate(levels)]

    def rows(self, indices: Any) -> list[Any]:
        return [self.records[row] for row in indices]

    def take(self, indices: Any, columns: Any) -> Any:
        raise NotImplementedError


def test_the_loader_brings_each_sources_levels() -> None:
    """The plan knows of the same ones: what it weighs is what is brought."""
    levels: list[tuple[int | None, ...]] = [(1, 2, 3, 4), (None, None), (3, 4, None)]
    index = make_index(3)
    index.level_counts[:] = [[each.count(level) for level in (None, 1, 2, 3, 4)] for each in levels]
    said: list[dict[str, Any]] = [{}, {"ungraded_level": 4}, {"levels": [3]}]
    plan = plan_of(
        *said, sizes=[1, 1, 1], index=index, steps=1, stages="level-1", negatives=3, missing_level="in_batch"
    )
    found: dict[str, list[int]] = {}
    for batch in Loader(Records(*levels), plan).micro_batches(0, 1, 0):
        for name, brought, valid in zip(batch.ids, batch.levels, batch.document_valid, strict=True):
            found[name] = brought[valid[1:]].tolist()
    assert {name: brought for name, brought in found.items() if name} == {"0": [1], "1": [], "2": [3, 0]}
    assert plan.index.level_counts.tolist() == [[0, 1, 1, 1, 1], [0, 0, 0, 0, 2], [1, 0, 0, 1, 1]]
    assert [part.lacking for part in plan.coverage()] == [1]
