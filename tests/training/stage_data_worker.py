"""What a rank does in the tests of stage data: make a stage ready, honestly or not, and prove it."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from unittest import mock

import pyarrow as pa

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import CurriculumConfig, TrainingPlan
from mgh_ds.curriculum.shards import LocalStage, StoreRecords
from mgh_ds.distributed.group import process_group, rank, world_size
from mgh_ds.records.store import Store
from mgh_ds.training.stage_data import prepare, verify

FIRST_STEP = 1  # stage 0 has the steps 0 to 5
CHEATED_STEP = 3


def swapped(rows: pa.RecordBatch, others: pa.RecordBatch) -> pa.RecordBatch:
    return pa.concat_batches([rows.slice(1), others.slice(0, 1)])


def missing(rows: pa.RecordBatch, _: pa.RecordBatch) -> pa.RecordBatch:
    return rows.slice(1)


def doubled(rows: pa.RecordBatch, _: pa.RecordBatch) -> pa.RecordBatch:
    return pa.concat_batches([rows, rows.slice(0, 1)])


def in_place_of_another(rows: pa.RecordBatch, _: pa.RecordBatch) -> pa.RecordBatch:
    return pa.concat_batches([rows.slice(0, 1), rows.slice(0, 1), rows.slice(2)])


def shortened(rows: pa.RecordBatch, _: pa.RecordBatch) -> pa.RecordBatch:
    queries = pa.array([text[:-1] for text in rows["query"].to_pylist()])
    return rows.set_column(rows.schema.get_field_index("query"), rows.schema.field("query"), queries)


CHEATS = {cheat.__name__: cheat for cheat in (swapped, missing, doubled, in_place_of_another, shortened)}


def make_plan(store: Store, seed: int = 0) -> TrainingPlan:
    config = CurriculumConfig(homogeneous=False)
    return TrainingPlan(store.index(), config, steps=18, global_batch=16, micro_batch=2, seed=seed)


def stage_share(plan: TrainingPlan) -> LocalStage:
    return LocalStage(plan, plan.stage(FIRST_STEP), FIRST_STEP, world_size(), rank())


def prove_all(store_path: Path, folder: Path) -> None:
    """First honestly, then with each cheat on the last rank, with another seed there, and with its store
    unreadable; prints what comes of each."""
    store = Store.open(store_path)
    with process_group():
        cheats = rank() == world_size() - 1
        report("honest", store, make_plan(store), folder / "honest")
        for name in CHEATS:
            with mock.patch.object(
                StoreRecords, "batches", cheating(name) if cheats else StoreRecords.batches
            ):
                report(name, store, make_plan(store), folder / name)
        if world_size() > 1:
            report("seed", store, make_plan(store, seed=int(cheats)), folder / "seed")
        with mock.patch.object(Store, "take", failing if cheats else Store.take):
            report("unreadable", store, make_plan(store), folder / "unreadable")


def report(name: str, store: Store, plan: TrainingPlan, folder: Path) -> None:
    local = stage_share(plan)
    try:
        try:
            found = prepare(store, local, folder, Event())
        except MghError as error:
            found = error
        ready = verify(local, store.manifest_hash, found)
    except MghError as error:
        print(f"{name}: {error}")
    else:
        print(f"{name}: {ready.counted.records} of {ready.planned_by_all.records}")


def failing(*_: object) -> pa.RecordBatch:
    raise MghError("the store is damaged")


def cheating(name: str):  # type: ignore[no-untyped-def]
    honest = StoreRecords.batches

    def batches(rows: StoreRecords) -> Iterator[tuple[int, pa.RecordBatch]]:
        others = rows.read(CHEATED_STEP + 1)
        for step, batch in honest(rows):
            yield step, CHEATS[name](batch, others) if step == CHEATED_STEP else batch

    return batches
