"""Stages cover the steps without gap or overlap, in the order that the recipe names."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgh_ds.curriculum import CurriculumConfig, make_stages
from mgh_ds.errors import MghError


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


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        (CurriculumConfig(shares=[0.5, 0.5]), 10, "3 stages"),
        (CurriculumConfig(shares=[0.5, 0.3, 0.3]), 10, "sum to 1"),
        (CurriculumConfig(shares=[1.2, -0.1, -0.1]), 10, "positive"),
        (CurriculumConfig(), 2, "none of the 2 steps"),
        (CurriculumConfig(negatives=-1), 10, "negatives"),
    ],
)
def test_what_does_not_fit_is_refused(config: CurriculumConfig, steps: int, message: str) -> None:
    with pytest.raises(MghError, match=message):
        make_stages(config, steps)
