"""The ledger is the plan's, and the digest notices whoever trained on something else."""

import json
from pathlib import Path

import numpy as np
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines
from mgh_ds.curriculum import CurriculumConfig, TrainingPlan
from mgh_ds.curriculum.plan import EMPTY
from mgh_ds.records.store import Store
from mgh_ds.training.ledger import Ledger, halves, hashed, records_digest, whole

STEPS, LAST_OF_EPOCH = 8, 3  # 53 records: the fourth batch is not full


@pytest.fixture
def plan(store: Store) -> TrainingPlan:
    config = CurriculumConfig(homogeneous=False)
    return TrainingPlan(store.index(), config, steps=STEPS, global_batch=16, micro_batch=2, seed=3)


@pytest.fixture
def ledger(store: Store, plan: TrainingPlan, tmp_path: Path) -> Ledger:
    return Ledger(JsonLines(tmp_path / "ledger.jsonl"), store, plan)


def _of_rank(store: Store, plan: TrainingPlan, step: int, world_size: int, rank: int) -> list[str]:
    rows = plan.local_batch(step, world_size, rank).ravel()
    return [store.ids([row])[0] if row != EMPTY else "" for row in rows]


@pytest.mark.parametrize("step", [0, LAST_OF_EPOCH])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_parts_of_any_number_of_ranks_have_the_digest_of_the_plan(
    step: int, world_size: int, store: Store, plan: TrainingPlan, ledger: Ledger
) -> None:
    parts = [
        halves(records_digest(hashed(_of_rank(store, plan, step, world_size, rank)), step))
        for rank in range(world_size)
    ]
    ledger.check(step, whole(np.sum(parts, axis=0)))


def test_another_record_in_the_place_of_one_is_noticed(
    store: Store, plan: TrainingPlan, ledger: Ledger
) -> None:
    names = _of_rank(store, plan, 0, 1, 0)
    taken = set(names)
    names[5] = next(name for name in store.ids(range(len(store))) if name not in taken)
    with pytest.raises(MghError, match="step 1: the ranks trained on other records"):
        ledger.check(0, records_digest(hashed(names), 0))


def test_the_records_of_another_step_are_noticed(store: Store, plan: TrainingPlan, ledger: Ledger) -> None:
    with pytest.raises(MghError, match="other records"):
        ledger.check(1, records_digest(hashed(_of_rank(store, plan, 0, 1, 0)), 0))


def test_lines_come_in_the_order_of_the_steps_with_sorted_ids(
    store: Store, plan: TrainingPlan, ledger: Ledger
) -> None:
    with ledger:
        for step in range(STEPS):
            ledger.write(step, "the loss is nan" if step == 2 else None)
        ledger.wait()
        lines = [json.loads(line) for line in ledger.lines.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line.get("skipped") for line in lines] == [None, None, "the loss is nan", *[None] * (STEPS - 3)]
    for step, line in enumerate(lines):
        rows = plan.batch(step)
        assert line["ids"] == sorted(store.ids(rows[rows != EMPTY]))


def test_after_a_line_that_cannot_be_written_none_follows(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with ledger:
        ledger.write(0, None)
        with pytest.raises(IsADirectoryError):
            ledger.wait()
        (tmp_path / "ledger.jsonl").rmdir()
        with pytest.raises(IsADirectoryError):
            ledger.write(1, None)
    assert not (tmp_path / "ledger.jsonl").exists()
