"""Stages cover the steps without gap or overlap, in the order that the recipe names."""

import itertools
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import CurriculumConfig, make_stages
from tests.effort import PLANS


@PLANS
@given(
    st.integers(3, 5000), st.sampled_from(["coarse_to_fine", "fine_to_coarse", "random", "level-2", "all"])
)
def test_stages_tile_the_steps(steps: int, order: str) -> None:
    stages = make_stages(CurriculumConfig(stages=order), steps)
    assert stages[0].first_step == 0
    assert sum(stage.steps for stage in stages) == steps
    for before, after in itertools.pairwise(stages):
        assert before.first_step + before.steps == after.first_step


@pytest.mark.parametrize(
    ("config", "levels"),
    [
        (CurriculumConfig(), [(1,), (2, 3), (4,)]),
        (CurriculumConfig(stages="fine_to_coarse"), [(4,), (2, 3), (1,)]),
        (
            CurriculumConfig(stages=[{"levels": [1]}, {"levels": [1, 2, 3]}, {"levels": [1, 2, 3, 4]}]),
            [(1,), (1, 2, 3), (1, 2, 3, 4)],
        ),
        (CurriculumConfig(stages="level-3"), [(3,)]),
        (CurriculumConfig(stages="random"), [(1, 2, 3, 4)]),
        (CurriculumConfig(stages="all"), [(1, 2, 3, 4)]),
    ],
)
def test_orders(config: CurriculumConfig, levels: list[tuple[int, ...]]) -> None:
    assert [stage.levels for stage in make_stages(config, 30)] == levels


def test_all_brings_one_negative_a_level_and_random_one_of_them() -> None:
    assert make_stages(CurriculumConfig(stages="all"), 5)[0].negatives == 4
    assert make_stages(CurriculumConfig(stages="random"), 5)[0].negatives == 1


@PLANS
@given(st.integers(1, 300), st.integers(0, 1000))
def test_ungraded_batches_keep_their_share_over_any_number_of_steps(steps: int, share: int) -> None:
    config = CurriculumConfig(stages="all", ungraded_share=share / 1000)
    (stage,) = make_stages(config, steps)
    drawn = {"graded": 0, "ungraded": 0}
    for step in range(steps):
        source, before = stage.source(step)
        assert before == drawn[source]
        drawn[source] += 1
        assert drawn["ungraded"] == (step + 1) * share // 1000
    assert {name: drawn[name] for name in stage.source_steps()} == stage.source_steps()
    assert sum(stage.source_steps().values()) == steps


def test_the_ungraded_share_may_differ_by_stage() -> None:
    levels = zip([1, 2, 3], [0.5, 0, 1], strict=True)
    config = CurriculumConfig(
        stages=[{"levels": [level], "ungraded_share": share} for level, share in levels]
    )
    stages = make_stages(config, 12)
    sources = [
        stage.source(step)[0] for stage in stages for step in range(stage.first_step, 4 * stage.index + 4)
    ]
    assert sources == ["graded", "ungraded"] * 2 + ["graded"] * 4 + ["ungraded"] * 4


def test_stages_say_for_themselves_what_the_curriculum_says_for_all() -> None:
    config = CurriculumConfig(
        stages=[{"levels": [2], "share": 0.25}, {"levels": [4, 3], "share": 0.75, "negatives": 0}],
        negatives=3,
        ungraded_share=0.5,
    )
    first, second = make_stages(config, 8)
    assert (first.levels, first.negatives, first.first_step, first.steps) == ((2,), 3, 0, 2)
    assert (second.levels, second.negatives, second.first_step, second.steps) == ((4, 3), 0, 2, 6)
    assert first.ungraded_share == second.ungraded_share == Fraction(1, 2)


def shared(*shares: float | None) -> dict[str, Any]:
    return {"stages": [{"levels": [1], "share": share} for share in shares]}


@pytest.mark.parametrize(
    ("settings", "steps", "message"),
    [
        (shared(0.5, 0.3, 0.3), 10, "sum to 1"),
        (shared(0.5, None, 0.5), 10, "sum to 1, or all be null"),
        (shared(1.2, -0.1, -0.1), 10, r"stages.*share"),
        ({}, 2, "none of the 2 steps"),
        ({"stages": []}, 10, "stages must be a list of at least one"),
        ({"stages": [{"levels": []}]}, 10, "levels"),
        ({"stages": [{"levels": [5]}]}, 10, "levels"),
        ({"stages": "corse_to_fine"}, 10, "did you mean `coarse_to_fine`"),
        ({"stages": "?"}, 10, "there are: coarse_to_fine, fine_to_coarse"),
        ({"negatives": -1}, 10, "negatives"),
        ({"ungraded_share": 1.5}, 10, "ungraded_share"),
        ({"stages": [{"levels": [1], "ungraded_share": float("nan")}]}, 10, "ungraded_share"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], steps: int, message: str) -> None:
    with pytest.raises(MghError, match=message):
        make_stages(CurriculumConfig(**settings), steps)
