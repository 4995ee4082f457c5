"""The plan's promises: every record once, the same batches for every world size, nothing but the arguments
decides."""

import json
import subprocess
import sys
from collections import defaultdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import CurriculumConfig, Stage, TrainingPlan
from mgh_ds.curriculum.plan import EMPTY
from mgh_ds.records.store import MANIFEST, Store, StoreIndex, StoreWriter
from tests.effort import PLANS
from tests.records.examples import make_records

ORDERS = ["coarse_to_fine", "fine_to_coarse", "random", "level-1", "level-4", "all"]
# The orders, and two of which each stage keeps the levels of those before it.
CUMULATIVE = [[[1], [1, 2, 3], [1, 2, 3, 4]], [[4], [2, 3, 4], [1, 2, 3, 4]]]
curricula = st.sampled_from([*ORDERS, *([{"levels": levels} for levels in stages] for stages in CUMULATIVE)])


def make_index(
    records: int, tasks: int = 3, seed: int = 0, ungraded: float = 0, gaps: float = 0
) -> StoreIndex:
    """Records with a negative of every level, and others with an ungraded one alone (the first is graded, the
    second is not, if there are any of both); with `gaps` negatives are missing here and there."""
    random = np.random.default_rng(seed)
    graded = random.random(records) >= ungraded
    counts = np.zeros((records, 5), dtype=np.uint8)
    counts[:, 0], counts[:, 1:] = ~graded, graded[:, None]
    counts[2:] *= random.random((records, 5))[2:] >= gaps
    if 0 < ungraded < 1:
        counts[:2] = np.array([[0, 1, 1, 1, 1], [1, 0, 0, 0, 0]])[:records]
    chars = random.integers(5, 400, size=(records, 7)).astype(np.int32)
    return StoreIndex(
        id_hash=random.permutation(records).astype(np.uint64) * np.uint64(0x1234567),
        task_hash=random.integers(0, tasks, records).astype(np.uint64),
        query_chars=chars[:, 0],
        positive_chars=chars[:, 1],
        level_chars=chars[:, 2:] * counts,
        level_counts=counts,
        scored=(np.arange(records) % 3).astype(np.uint8),
    )


@st.composite
def arguments(draw: st.DrawFn) -> tuple[StoreIndex, CurriculumConfig, dict[str, Any]]:
    """All that a plan is made from: data with and without gaps and ungraded records, every order, groups."""
    records, seed = draw(st.integers(3, 120)), draw(st.integers(0, 2**40))
    ungraded = draw(st.sampled_from([0, 0.3, 1]))
    share = draw(st.sampled_from([None, 0, 0.3, 0.5, 1])) if ungraded == 0.3 else None
    config = CurriculumConfig(
        stages=draw(curricula),
        missing_level=draw(st.sampled_from(["nearest", "in_batch", "skip"])),
        ungraded_share=share,
        homogeneous=draw(st.booleans()),
        length_window=draw(st.integers(1, 3)),
    )
    micro_batch, negative_groups = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    global_batch = (
        micro_batch * negative_groups * draw(st.integers(-(-8 // negative_groups), -(-16 // negative_groups)))
    )
    sizes = {
        "steps": draw(st.integers(3, 24)),
        "global_batch": global_batch,
        "micro_batch": micro_batch,
        "negative_groups": negative_groups,
        "seed": seed,
        "max_chars": draw(st.sampled_from([None, 100])),
    }
    gaps = draw(st.sampled_from([0, 0.4]))
    return make_index(records, draw(st.integers(1, 8)), seed, ungraded, gaps), config, sizes


def make_plan(made_from: tuple[StoreIndex, CurriculumConfig, dict[str, Any]]) -> TrainingPlan:
    index, config, sizes = made_from
    return TrainingPlan(index, config, **sizes)


plans = arguments().map(make_plan)
numbers = st.integers(0, 10**6)


def source_rows(plan: TrainingPlan, stage: Stage, source: str) -> set[int]:
    """The rows that a source of a stage has, found record by record."""
    found = set()
    for row, counts in enumerate(plan.index.level_counts.tolist()):
        graded = any(counts[1:])
        fits = any(counts[level] for level in (0, *stage.levels)) or plan.config.missing_level != "skip"
        if fits and {"all": True, "graded": graded, "ungraded": not graded}[source]:
            found.add(row)
    return found


def epochs(plan: TrainingPlan) -> dict[tuple[int, str, int], list[np.ndarray]]:
    """The batches of all steps, by stage, source and epoch."""
    found = defaultdict(list)
    for step in range(plan.steps):
        stage = plan.stage(step)
        found[stage.index, stage.source(step)[0], plan.epoch(step)].append(plan.batch(step))
    return found


def ledger(plan: TrainingPlan, step: int, world_size: int) -> dict[int, tuple[int, ...]]:
    """What the ranks together work on in a step: the rows of each micro-batch by its number.

    Fails if a number is assigned twice, if a padding micro-batch holds a record or if ranks get unequal
    counts.
    """
    found: dict[int, tuple[int, ...]] = {}
    counts = set()
    for rank in range(world_size):
        local = plan.local_batch(step, world_size, rank)
        counts.add(local.shape)
        for number, rows in zip(plan.micro_batches(step, world_size, rank), local, strict=True):
            if number == EMPTY:
                assert (rows == EMPTY).all()
            else:
                assert int(number) not in found, "a micro-batch is assigned twice"
                found[int(number)] = tuple(rows.tolist())
    assert len(counts) == 1, "every rank has the same number of places"
    return found


@PLANS
@given(plans)
def test_every_record_of_a_source_occurs_exactly_once_in_its_epoch(plan: TrainingPlan) -> None:
    for (stage_index, source, _), batches in epochs(plan).items():
        expected = source_rows(plan, plan.stages[stage_index], source)
        rows = np.concatenate(batches)
        rows = rows[rows != EMPTY]
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= expected
        whole = len(batches) == -(-len(expected) // plan.global_batch)
        assert (len(rows) == len(expected)) == whole


@PLANS
@given(plans)
def test_full_homogeneous_batches_hold_one_task(plan: TrainingPlan) -> None:
    for (stage_index, source, _), batches in epochs(plan).items():
        rows = sorted(source_rows(plan, plan.stages[stage_index], source))
        if len(batches) < -(-len(rows) // plan.global_batch) or not plan.config.homogeneous:
            continue
        tasks = np.bincount(plan.index.task_hash[rows].astype(int))
        pure = np.zeros_like(tasks)
        for batch in batches:
            held = set(plan.index.task_hash[batch].tolist())
            if EMPTY not in batch and len(held) == 1:
                pure[held.pop()] += 1
        assert (pure >= tasks // plan.global_batch).all()


@PLANS
@given(plans)
def test_the_share_of_ungraded_batches_is_exact_over_every_stage(plan: TrainingPlan) -> None:
    given = plan.config.ungraded_share
    graded = plan.index.level_counts[:, 1:].any(axis=1)
    for stage in plan.stages:
        ungraded = 0
        for done in range(stage.steps):
            step = stage.first_step + done
            batch = plan.batch(step)
            kinds = set(graded[batch[batch != EMPTY]].tolist())
            if given is not None:
                assert len(kinds) == 1
                ungraded += kinds == {False}
                assert ungraded == int((done + 1) * Fraction(str(given)))


@PLANS
@given(plans, numbers, st.integers(1, 16))
def test_ranks_share_the_same_batch_for_every_world_size(
    plan: TrainingPlan, number: int, world_size: int
) -> None:
    step = number % plan.steps
    world_size = min(world_size, plan.count)
    assigned = ledger(plan, step, world_size)
    assert assigned == ledger(plan, step, 1)
    assert sorted(assigned) == list(range(plan.global_batch // plan.micro_batch))
    assert sorted(row for rows in assigned.values() for row in rows) == sorted(plan.batch(step).tolist())


@PLANS
@given(plans, numbers, st.integers(1, 16))
def test_groups_part_the_batch_evenly_and_ranks_keep_to_theirs(
    plan: TrainingPlan, number: int, world_size: int
) -> None:
    step, count = number % plan.steps, plan.count
    world_size = min(world_size, count)
    negative_groups = [plan.group_of(micro_batch) for micro_batch in range(count)]
    assert {negative_groups.count(group) for group in range(plan.negative_groups)} == {
        count // plan.negative_groups
    }
    if world_size % plan.negative_groups == 0:
        for rank in range(world_size):
            mine = plan.micro_batches(step, world_size, rank)
            assert {plan.group_of(number) for number in mine[mine != EMPTY]} <= {rank % plan.negative_groups}


@PLANS
@given(plans, numbers, st.integers(1, 16))
def test_ranks_differ_by_at_most_the_longest_record_minus_the_shortest(
    plan: TrainingPlan, number: int, world_size: int
) -> None:
    step = number % plan.steps
    world_size = max(size for size in range(1, world_size + 1) if plan.count % size == 0)
    records = plan.lengths(step, plan.batch(step))
    bound = records.max() - records.min()
    ranks = [plan.lengths(step, plan.local_batch(step, world_size, r)).sum() for r in range(world_size)]
    assert max(ranks) - min(ranks) <= bound
    micro_batches = plan.lengths(step, plan.local_batch(step, 1, 0)).sum(axis=1)
    assert max(micro_batches) - min(micro_batches) <= bound
    negative_groups = np.bincount(
        plan.micro_batches(step, 1, 0) % plan.negative_groups, weights=micro_batches
    )
    assert negative_groups.max() - negative_groups.min() <= bound


@PLANS
@given(arguments(), st.lists(st.tuples(numbers, st.integers(1, 8)), min_size=1, max_size=4))
def test_calls_in_any_order_agree(made_from: Any, calls: list[tuple[int, int]]) -> None:
    busy = make_plan(made_from)
    for number, world_size in calls:
        step, rank = number % busy.steps, number % world_size
        fresh = make_plan(made_from)
        np.testing.assert_array_equal(
            busy.local_batch(step, world_size, rank), fresh.local_batch(step, world_size, rank)
        )
        np.testing.assert_array_equal(busy.batch(step), fresh.batch(step))
        assert busy.epoch(step) == fresh.epoch(step)


@PLANS
@given(arguments(), st.lists(st.integers(0, 24), max_size=3), st.permutations([16, 8, 4, 1]))
def test_a_run_in_pieces_on_other_numbers_of_ranks_is_the_uninterrupted_run(
    made_from: Any, stops: list[int], world_sizes: list[int]
) -> None:
    whole = make_plan(made_from)
    bounds = [0, *sorted(min(stop, whole.steps) for stop in stops), whole.steps]
    pieces = []
    for begin, end, world_size in zip(bounds, bounds[1:], world_sizes, strict=False):
        resumed = make_plan(made_from)
        assert resumed.fingerprint("m") == whole.fingerprint("m")
        pieces += [ledger(resumed, step, min(world_size, whole.count)) for step in range(begin, end)]
    assert pieces == [ledger(whole, step, 1) for step in range(whole.steps)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("plan") / "store"
    with StoreWriter(path) as writer:
        for record in make_records(12):
            writer.add(record)
    return Store.open(path)


@settings(PLANS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_changed_byte_of_the_manifest_changes_the_hash_of_the_plan(store: Store, data: Any) -> None:
    """Or it is refused; whitespace alone is no content."""
    content = (store.path / MANIFEST).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    changed = store.path.parent / "changed"
    changed.mkdir(exist_ok=True)
    for part in store.manifest.parts:
        (changed / part.file).unlink(missing_ok=True)
        (changed / part.file).hardlink_to(store.path / part.file)
    (changed / MANIFEST).write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    try:
        other = Store.open(changed)
    except MghError:
        return
    plan = TrainingPlan(store.index(), CurriculumConfig(), steps=9, global_batch=4, micro_batch=2, seed=0)
    same = plan.fingerprint(other.manifest_hash) == plan.fingerprint(store.manifest_hash)
    assert same == (json.loads(content) == json.loads((changed / MANIFEST).read_bytes()))


def test_a_fresh_process_with_another_hash_seed_agrees() -> None:
    sizes = {"steps": 9, "global_batch": 16, "micro_batch": 4, "seed": 7, "negative_groups": 2}
    code = (
        "import json; from tests.curriculum.test_plan import *;"
        "config = CurriculumConfig(ungraded_share=0.5);"
        f"plan = TrainingPlan(make_index(100, ungraded=0.3), config, **{sizes!r});"
        "print(json.dumps([plan.local_batch(step, 2, 1).tolist() for step in range(9)]))"
    )
    printed = [
        json.loads(
            subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, text=True)
        )
        for seed in ("1", "2")
    ]
    here = TrainingPlan(make_index(100, ungraded=0.3), CurriculumConfig(ungraded_share=0.5), **sizes)
    assert printed[0] == printed[1] == [here.local_batch(step, 2, 1).tolist() for step in range(9)]


def test_the_batches_are_those_of_this_version_of_the_plan() -> None:
    """Where this fails, runs begun before would go on with other batches: raise PLAN_VERSION."""
    config = CurriculumConfig(stages="random", length_window=2)
    plan = TrainingPlan(make_index(20), config, steps=4, global_batch=8, micro_batch=2, seed=3)
    assert plan.local_batch(1, 2, 0).tolist() == [[16, 9], [14, 15]]


def test_another_seed_gives_another_order() -> None:
    one, other = (
        TrainingPlan(make_index(200), CurriculumConfig(), steps=9, global_batch=16, micro_batch=4, seed=seed)
        for seed in (1, 2)
    )
    assert not np.array_equal(one.batch(0), other.batch(0))


def test_an_epoch_differs_from_the_one_before() -> None:
    plan = TrainingPlan(
        make_index(64), CurriculumConfig(stages="all"), steps=8, global_batch=16, micro_batch=4, seed=0
    )
    first, second = ([plan.batch(step).tolist() for step in steps] for steps in (range(4), range(4, 8)))
    assert [plan.epoch(step) for step in range(8)] == [0] * 4 + [1] * 4
    assert first != second


def test_the_fingerprint_follows_every_argument() -> None:
    def fingerprint(manifest: str = "m", curriculum: Any = None, **changes: int) -> str:
        sizes = {"steps": 9, "global_batch": 16, "micro_batch": 4, "seed": 0} | changes
        config = CurriculumConfig(**curriculum or {})
        return TrainingPlan(make_index(100, ungraded=0.3), config, **sizes).fingerprint(manifest)

    prints = [
        fingerprint(),
        fingerprint("n"),
        fingerprint(seed=1),
        fingerprint(steps=12),
        fingerprint(global_batch=32),
        fingerprint(micro_batch=8),
        fingerprint(negative_groups=2),
        fingerprint(max_chars=50),
        fingerprint(curriculum={"ungraded_share": 0.5}),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint() == prints[0]


def test_lengths_are_what_the_stage_brings_up_to_where_texts_are_cut() -> None:
    index = make_index(1)
    index.query_chars[0], index.positive_chars[0], index.level_chars[0] = 10, 90, [0, 1, 20, 300, 4000]
    sizes = {"steps": 3, "global_batch": 2, "micro_batch": 1, "seed": 0}
    rows = np.array([0, EMPTY])
    for max_chars, lengths in ((None, [101, 420, 4100]), (50, [61, 130, 110])):
        plan = TrainingPlan(index, CurriculumConfig(), **sizes, max_chars=max_chars)
        assert [plan.lengths(step, rows).tolist() for step in range(3)] == [[found, 0] for found in lengths]


def test_a_level_that_no_record_has_is_refused_by_name() -> None:
    index = make_index(50)
    index.level_counts[:, 4] = 0
    with pytest.raises(MghError, match=r"stage `level 4`.*levels \[1, 2, 3\]"):
        TrainingPlan(index, CurriculumConfig(), steps=9, global_batch=8, micro_batch=4, seed=0)


def test_every_level_of_a_stage_must_occur_somewhere() -> None:
    index = make_index(50)
    index.level_counts[:, 3] = 0
    with pytest.raises(MghError, match=r"stage `levels 2, 3`.*levels \[1, 2, 4\]"):
        TrainingPlan(index, CurriculumConfig(), steps=9, global_batch=8, micro_batch=4, seed=0)


def test_a_level_may_be_missing_in_a_stage_of_ungraded_records() -> None:
    index = make_index(50, ungraded=0.3)
    index.level_counts[:, 4] = 0
    levels = zip([[1], [2, 3], [4]], [0, 0.5, 1], strict=True)
    config = CurriculumConfig(stages=[{"levels": some, "ungraded_share": share} for some, share in levels])
    plan = TrainingPlan(index, config, steps=9, global_batch=8, micro_batch=4, seed=0)
    assert [part.name for part in plan.coverage()] == [
        "level 1, graded",
        "levels 2, 3, graded",
        "levels 2, 3, ungraded",
        "level 4, ungraded",
    ]
    assert [part.steps for part in plan.coverage()] == [3, 2, 1, 3]


def test_ungraded_records_take_part_in_every_stage() -> None:
    plan = TrainingPlan(
        make_index(32, ungraded=1), CurriculumConfig(), steps=9, global_batch=32, micro_batch=4, seed=0
    )
    assert [part.eligible for part in plan.coverage()] == [32, 32, 32]
    assert [part.lacking for part in plan.coverage()] == [0, 0, 0]


@pytest.mark.parametrize(("ungraded", "share", "missing"), [(0, 0.2, "ungraded"), (1, 0.8, "graded")])
def test_a_share_for_records_that_do_not_exist_is_refused(
    ungraded: float, share: float, missing: str
) -> None:
    with pytest.raises(
        MghError, match=rf"stage `level 1` has no {missing} record.*ungraded_share is {share}"
    ):
        TrainingPlan(
            make_index(32, ungraded=ungraded),
            CurriculumConfig(ungraded_share=share),
            steps=9,
            global_batch=8,
            micro_batch=4,
            seed=0,
        )


def test_records_without_the_level_sit_the_stage_out_when_asked() -> None:
    index = make_index(40)
    index.level_counts[:10, 4] = 0
    config = CurriculumConfig(stages="level-4", missing_level="skip")
    plan = TrainingPlan(index, config, steps=4, global_batch=8, micro_batch=4, seed=0)
    seen = np.concatenate([plan.batch(step) for step in range(4)])
    assert set(seen[seen != EMPTY].tolist()) == set(range(10, 40))
    assert (plan.coverage()[0].eligible, plan.coverage()[0].lacking) == (30, 10)


def test_what_a_stage_trains_on_is_what_its_batches_hold() -> None:
    index = make_index(42, ungraded=0.3)
    index.level_counts[:10, 4] = 0
    graded = index.level_counts[:, 1:].any(axis=1)
    has_level = (index.level_counts[:, [0, 4]] > 0).any(axis=1)
    for share, wanted in ((None, has_level), (0.5, has_level), (0.0, graded & has_level)):
        config = CurriculumConfig(stages="level-4", missing_level="skip", ungraded_share=share)
        plan = TrainingPlan(index, config, steps=14, global_batch=8, micro_batch=4, seed=0)
        seen = np.unique(np.concatenate([plan.batch(step) for step in range(14)]))
        assert seen[seen != EMPTY].tolist() == np.flatnonzero(wanted).tolist()
        assert plan.trained_on(plan.stages[0]).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"steps": 0}, "must be positive"),
        ({"micro_batch": 5}, "must divide"),
        ({"negative_groups": 0}, "must be positive"),
        ({"negative_groups": 3}, r"negative_groups \(3\) must divide the 4 micro-batches"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    arguments = {"steps": 9, "global_batch": 16, "micro_batch": 4, "seed": 0} | sizes
    with pytest.raises(MghError, match=message):
        TrainingPlan(make_index(50), CurriculumConfig(), **arguments)


@pytest.mark.parametrize(
    ("world_size", "negative_groups", "advice"),
    [
        (3, 1, "micro_batch 4 would fit"),
        (16, 1, "micro_batch 1 would fit"),
        (17, 1, "use fewer ranks"),
        (3, 2, "micro_batch 4 would fit"),
    ],
)
def test_more_ranks_than_micro_batches_are_refused(
    world_size: int, negative_groups: int, advice: str
) -> None:
    plan = TrainingPlan(
        make_index(50),
        CurriculumConfig(),
        steps=9,
        global_batch=16,
        micro_batch=8,
        seed=0,
        negative_groups=negative_groups,
    )
    with pytest.raises(MghError, match=f"only 2 micro-batches.*{advice}"):
        plan.local_batch(0, world_size, 0)
