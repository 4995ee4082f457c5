"""Stages cover the steps without gap or overlap, in the order that the recipe names."""

import itertools
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
    stages = make_stages(CurriculumConfig(order=order), steps)
    assert stages[0].first_step == 0
    assert sum(stage.steps for stage in stages) == steps
    for before, after in itertools.pairwise(stages):
        assert before.first_step + before.steps == after.first_step


@pytest.mark.parametrize(
    ("config", "levels"),
    [
        (CurriculumConfig(), [(1,), (2, 3), (4,)]),
        (CurriculumConfig(order="fine_to_coarse"), [(4,), (2, 3), (1,)]),
        (CurriculumConfig(cumulative=True), [(1,), (1, 2, 3), (1, 2, 3, 4)]),
        (CurriculumConfig(order="level-3"), [(3,)]),
        (CurriculumConfig(order="random"), [(1, 2, 3, 4)]),
        (CurriculumConfig(order="all"), [(1, 2, 3, 4)]),
    ],
)
def test_orders(config: CurriculumConfig, levels: list[tuple[int, ...]]) -> None:
    assert [stage.levels for stage in make_stages(config, 30)] == levels


def test_all_brings_one_negative_a_level_and_random_one_of_them() -> None:
    assert make_stages(CurriculumConfig(order="all"), 5)[0].negatives == 4
    assert make_stages(CurriculumConfig(order="random"), 5)[0].negatives == 1


@PLANS
@given(st.integers(1, 300), st.integers(0, 1000))
def test_ungraded_batches_keep_their_share_over_any_number_of_steps(steps: int, share: int) -> None:
    config = CurriculumConfig(order="all", ungraded_share=share / 1000)
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
    stages = make_stages(CurriculumConfig(ungraded_share=[0.5, 0, 1]), 12)
    sources = [
        stage.source(step)[0] for stage in stages for step in range(stage.first_step, 4 * stage.index + 4)
    ]
    assert sources == ["graded", "ungraded"] * 2 + ["graded"] * 4 + ["ungraded"] * 4


@pytest.mark.parametrize(
    ("settings", "steps", "message"),
    [
        ({"shares": [0.5, 0.5]}, 10, "3 stages"),
        ({"shares": [0.5, 0.3, 0.3]}, 10, "sum to 1"),
        ({"shares": [1.2, -0.1, -0.1]}, 10, "positive"),
        ({}, 2, "none of the 2 steps"),
        ({"negatives": -1}, 10, "negatives must not be negative, found -1"),
        ({"length_window": 0}, 10, "length_window must be 1 or more, found 0"),
        ({"ungraded_share": [0.5, 0.5]}, 10, "ungraded_share has 2 numbers.*3 stages"),
        ({"ungraded_share": 1.5}, 10, "ungraded_share must lie between 0 and 1, found 1.5"),
        ({"ungraded_share": [0, float("nan"), 0]}, 10, "between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], steps: int, message: str) -> None:
    with pytest.raises(MghError, match=message):
        make_stages(CurriculumConfig(**settings), steps)
