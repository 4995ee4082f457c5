"""The plan's promises: every record once, the same batches for every world size, nothing but the arguments
decides."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgh_ds.curriculum import CurriculumConfig, Plan
from mgh_ds.curriculum.plan import EMPTY
from mgh_ds.errors import MghError
from mgh_ds.records.store import StoreIndex


def make_index(records: int, tasks: int = 3, seed: int = 0, graded: bool = True) -> StoreIndex:
    random = np.random.default_rng(seed)
    counts = np.zeros((records, 5), dtype=np.uint8)
    counts[:, 1:] = graded
    counts[:, 0] = not graded
    chars = random.integers(5, 400, size=(records, 7)).astype(np.int32)
    return StoreIndex(
        id_hash=random.permutation(records).astype(np.uint64) * np.uint64(0x1234567),
        task_hash=random.integers(0, tasks, records).astype(np.uint64),
        query_chars=chars[:, 0],
        positive_chars=chars[:, 1],
        level_chars=chars[:, 2:] * counts,
        level_counts=counts,
    )


ORDERS = ["coarse_to_fine", "fine_to_coarse", "random", "level-1", "level-4", "all"]
plans = st.builds(
    lambda records, tasks, order, homogeneous, chunks, micro, epochs, seed: Plan(
        make_index(records, tasks, seed),
        CurriculumConfig(order=order, homogeneous=homogeneous, length_window=2),
        steps=max(3, 3 * epochs * -(-records // (chunks * micro))),
        global_batch=chunks * micro,
        micro_batch=micro,
        seed=seed,
    ),
    records=st.integers(1, 300),
    tasks=st.integers(1, 8),
    order=st.sampled_from(ORDERS),
    homogeneous=st.booleans(),
    chunks=st.integers(4, 8),
    micro=st.integers(1, 4),
    epochs=st.integers(1, 2),
    seed=st.integers(0, 2**40),
)


@given(plans)
@settings(max_examples=150, deadline=None)
def test_every_eligible_record_occurs_exactly_once_an_epoch(plan: Plan) -> None:
    records = len(plan.index.id_hash)
    for stage in plan.stages:
        length = -(-records // plan.global_batch)
        for first in range(stage.first_step, stage.first_step + stage.steps - length + 1, length):
            rows = np.concatenate([plan.batch(step) for step in range(first, first + length)])
            assert sorted(rows[rows != EMPTY]) == list(range(records))


@given(plans, st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_ranks_share_the_same_batch_for_every_world_size(plan: Plan, number: int) -> None:
    step = number % plan.steps
    batch = plan.batch(step)
    chunks_by_world_size = []
    for world_size in range(1, 5):
        shares = [plan.share(step, world_size, rank) for rank in range(world_size)]
        assert len({share.shape for share in shares}) == 1, "every rank has the same number of slots"
        dealt = np.concatenate([share.ravel() for share in shares])
        assert sorted(dealt[dealt != EMPTY]) == sorted(batch[batch != EMPTY])
        chunks_by_world_size.append(
            {tuple(chunk) for share in shares for chunk in share if (chunk != EMPTY).any()}
        )
    assert all(chunks == chunks_by_world_size[0] for chunks in chunks_by_world_size), (
        "micro-batches do not depend on W"
    )


@given(plans, st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_token_sums_of_micro_batches_differ_by_at_most_the_longest_record(plan: Plan, number: int) -> None:
    step = number % plan.steps
    share = plan.share(step, 1, 0)
    lengths = np.where(share == EMPTY, 0, plan._lengths(plan.stage(step), share.ravel()).reshape(share.shape))
    sums = lengths.sum(axis=1)
    assert sums.max() - sums.min() <= lengths.max()


@given(plans)
@settings(max_examples=50, deadline=None)
def test_full_homogeneous_batches_hold_one_task(plan: Plan) -> None:
    if not plan.config.homogeneous:
        return
    stage = plan.stages[0]
    epoch = [plan.batch(step) for step in range(-(-len(plan.index.id_hash) // plan.global_batch))]
    tasks = [set(plan.index.task_hash[rows[rows != EMPTY]].tolist()) for rows in epoch]
    possible = sum(count // plan.global_batch for count in np.bincount(plan.index.task_hash.astype(int)))
    assert stage.first_step == 0
    assert sum(len(found) == 1 for found in tasks) >= possible


def test_calls_in_any_order_agree() -> None:
    first, second = (
        Plan(make_index(200), CurriculumConfig(), steps=60, global_batch=16, micro_batch=4, seed=5)
        for _ in range(2)
    )
    forwards = [first.batch(step) for step in range(60)]
    backwards = [second.batch(step) for step in reversed(range(60))][::-1]
    np.testing.assert_array_equal(forwards, backwards)


def test_a_fresh_process_with_another_hash_seed_agrees() -> None:
    code = (
        "import json; from tests.curriculum.test_plan import *;"
        "plan = Plan(make_index(100), CurriculumConfig(), steps=9, global_batch=16, micro_batch=4, seed=7);"
        "print(json.dumps([plan.batch(step).tolist() for step in range(9)]))"
    )
    printed = [
        json.loads(
            subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, text=True)
        )
        for seed in ("1", "2")
    ]
    here = Plan(make_index(100), CurriculumConfig(), steps=9, global_batch=16, micro_batch=4, seed=7)
    assert printed[0] == printed[1] == [here.batch(step).tolist() for step in range(9)]


def test_another_seed_gives_another_order() -> None:
    one, other = (
        Plan(make_index(200), CurriculumConfig(), steps=9, global_batch=16, micro_batch=4, seed=seed)
        for seed in (1, 2)
    )
    assert not np.array_equal(one.batch(0), other.batch(0))


def test_the_fingerprint_follows_every_argument() -> None:
    def fingerprint(manifest: str = "m", **changes: int) -> str:
        sizes = {"steps": 9, "global_batch": 16, "micro_batch": 4, "seed": 0} | changes
        return Plan(make_index(100), CurriculumConfig(), **sizes).fingerprint(manifest)

    prints = [
        fingerprint(),
        fingerprint("n"),
        fingerprint(seed=1),
        fingerprint(steps=12),
        fingerprint(micro_batch=8),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint() == prints[0]


def test_a_level_that_no_record_has_is_refused_by_name() -> None:
    index = make_index(50)
    index.level_counts[:, 4] = 0
    with pytest.raises(MghError, match=r"stage `level 4`.*levels \[1, 2, 3\]"):
        Plan(index, CurriculumConfig(), steps=9, global_batch=8, micro_batch=4, seed=0)


def test_every_level_of_a_stage_must_occur_somewhere() -> None:
    index = make_index(50)
    index.level_counts[:, 3] = 0
    with pytest.raises(MghError, match=r"stage `levels 2, 3`.*levels \[1, 2, 4\]"):
        Plan(index, CurriculumConfig(), steps=9, global_batch=8, micro_batch=4, seed=0)


def test_ungraded_records_take_part_in_every_stage() -> None:
    plan = Plan(
        make_index(32, graded=False), CurriculumConfig(), steps=9, global_batch=32, micro_batch=4, seed=0
    )
    assert [part.eligible for part in plan.coverage()] == [32, 32, 32]
    assert [part.lacking for part in plan.coverage()] == [0, 0, 0]


def test_records_without_the_level_sit_the_stage_out_when_asked() -> None:
    index = make_index(40)
    index.level_counts[:10, 4] = 0
    config = CurriculumConfig(order="level-4", missing_level="skip")
    plan = Plan(index, config, steps=4, global_batch=8, micro_batch=4, seed=0)
    seen = np.concatenate([plan.batch(step) for step in range(4)])
    assert set(seen[seen != EMPTY].tolist()) == set(range(10, 40))
    assert plan.coverage()[0].lacking == 10


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"steps": 0}, "must be positive"),
        ({"micro_batch": 5}, "must divide"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    arguments = {"steps": 9, "global_batch": 16, "micro_batch": 4, "seed": 0} | sizes
    with pytest.raises(MghError, match=message):
        Plan(make_index(50), CurriculumConfig(), **arguments)


def test_more_ranks_than_micro_batches_are_refused() -> None:
    plan = Plan(make_index(50), CurriculumConfig(), steps=9, global_batch=16, micro_batch=8, seed=0)
    with pytest.raises(MghError, match="only 2 micro-batches"):
        plan.share(0, 3, 0)
