"""A shard holds what the store holds, in step order; what is lost, damaged or another's is never read."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgh_ds.curriculum import CurriculumConfig, TrainingPlan, shards
from mgh_ds.curriculum.shards import (
    SCHEMA,
    LocalStage,
    ShardError,
    StageShard,
    StoreRecords,
    open_shard,
    remove_old_shards,
    write_shard,
)
from mgh_ds.records import store as store_module
from mgh_ds.records.mixture import Mixture
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, StoreWriter, to_records
from tests.records.examples import record_values


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Two stores of 37 and 18 records of different lengths, in parts of 7."""
    folder, stores = tmp_path_factory.mktemp("stores"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "PART_ROWS", 7)
        for name, numbers in (("one", range(37)), ("two", range(37, 55))):
            with StoreWriter(folder / name) as writer:
                for number in numbers:
                    query = f"What is fact {number}? " + "ä" * (number * number % 90)
                    writer.add(Record.model_validate(record_values(number, query=query.strip())))
            stores.append(Store.open(folder / name))
    return Mixture(stores)


def make_plan(mixture: Mixture, **changes: int) -> TrainingPlan:
    sizes = {"steps": 12, "global_batch": 16, "micro_batch": 2, "seed": 0} | changes
    return TrainingPlan(mixture.index(), CurriculumConfig(homogeneous=False), **sizes)


def share_of(plan: TrainingPlan, first_step: int = 0, world_size: int = 1, rank: int = 0) -> LocalStage:
    return LocalStage(plan, plan.stage(first_step), first_step, world_size, rank)


def write(folder: Path, mixture: Mixture, local: LocalStage) -> StageShard:
    return write_shard(folder, local, mixture.manifest_hash, StoreRecords(mixture, local).batches())


def reopen(folder: Path, mixture: Mixture, local: LocalStage) -> StageShard:
    shard = open_shard(folder, local, mixture.manifest_hash)
    assert shard is not None
    return shard


@settings(max_examples=40, deadline=None)
@given(
    world_size=st.integers(1, 4),
    first_step=st.integers(0, 11),
    micro_batch=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
    copy_rows=st.integers(1, 60),
)
def test_a_shard_holds_what_the_store_holds_for_every_step_and_rank(
    tmp_path_factory: pytest.TempPathFactory,
    mixture: Mixture,
    world_size: int,
    first_step: int,
    micro_batch: int,
    seed: int,
    copy_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    plan = make_plan(mixture, micro_batch=micro_batch, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "COPY_ROWS", copy_rows)
        for rank in range(world_size):
            local = share_of(plan, first_step, world_size, rank)
            write(folder, mixture, local)
            shard, steps = reopen(folder, mixture, local), []
            for step, rows in shard.batches():
                steps.append(step)
                assert rows.schema == SCHEMA
                assert to_records(rows) == mixture.rows(local.rows(step)) == to_records(shard.read(step))
            assert steps == list(local.steps)


def test_any_arrow_reader_reads_it(tmp_path: Path, mixture: Mixture) -> None:
    local = share_of(make_plan(mixture), world_size=2, rank=1)
    shard = write(tmp_path, mixture, local)
    with pa.OSFile(str(shard.path)) as file:
        batches = [batch for batch in pa.ipc.open_stream(file) if len(batch)]
    rows = [local.rows(step) for step in local.steps]
    assert [to_records(batch) for batch in batches] == [mixture.rows(part) for part in rows if len(part)]


def test_taking_rows_leaves_none_of_the_store_resident(tmp_path: Path) -> None:
    text = "x" * 90_000
    with StoreWriter(tmp_path / "store") as writer:
        for number in range(600):
            writer.add(Record.model_validate(record_values(number, positive=text + str(number))))
    store = Store.open(tmp_path / "store")

    def mapped_megabytes() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        inside, resident = False, 0
        for line in lines:
            if "-" in line.split(" ")[0]:
                inside = str(tmp_path) in line
            elif inside and line.startswith("Rss:"):
                resident += int(line.split()[1])
        return resident // 1024

    kept = store._parts[0].rows["positive"].to_pylist()
    assert mapped_megabytes() > 45, "read through the map, the texts are resident"
    assert store.take(range(600), ["positive"])["positive"].to_pylist() == kept
    assert mapped_megabytes() == 0
    assert store._parts[0].rows["positive"].to_pylist() == kept, "what was let go of is mapped again"


def test_a_resumed_run_uses_the_shard_that_covers_its_step(tmp_path: Path, mixture: Mixture) -> None:
    plan = make_plan(mixture)
    write(tmp_path, mixture, share_of(plan, first_step=5))
    shard = reopen(tmp_path, mixture, share_of(plan, first_step=6))
    assert [step for step, _ in shard.batches()] == [6, 7]
    assert to_records(shard.read(7)) == mixture.rows(share_of(plan, 6).rows(7))
    with pytest.raises(ShardError, match="lacks steps"):
        open_shard(tmp_path, share_of(plan, first_step=4), mixture.manifest_hash)
    assert open_shard(tmp_path, share_of(plan, first_step=8), mixture.manifest_hash) is None


def read_all(folder: Path, mixture: Mixture, local: LocalStage) -> None:
    for _ in reopen(folder, mixture, local).batches():
        pass


def test_every_flipped_bit_that_is_read_is_noticed(tmp_path: Path, mixture: Mixture) -> None:
    local = share_of(make_plan(mixture))
    shard = write(tmp_path, mixture, local)
    whole, blocks = shard.path.read_bytes(), shard.description.blocks
    for place in np.linspace(blocks[0].offset, blocks[-1].offset + blocks[-1].bytes - 1, 60).astype(int):
        shard.path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(ShardError, match="is damaged in step"):
            read_all(tmp_path, mixture, local)
    shard.path.write_bytes(whole)
    read_all(tmp_path, mixture, local)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data, _: os.truncate(data, data.stat().st_size // 2), "is cut short"),
        (lambda data, _: data.write_bytes(b""), "is cut short"),
        (lambda _, text: text.write_text(text.read_text()[:-9]), r"json is damaged"),
        (lambda _, text: text.write_bytes(b"\xff\x00"), r"json is damaged"),
        (lambda _, text: text.write_text("{}"), r"json is damaged"),
    ],
)
def test_a_damaged_shard_is_refused_at_opening(
    tmp_path: Path, mixture: Mixture, harm: Callable[[Path, Path], object], message: str
) -> None:
    local = share_of(make_plan(mixture))
    shard = write(tmp_path, mixture, local)
    harm(shard.path, shard.path.with_suffix(".json"))
    with pytest.raises(ShardError, match=message):
        open_shard(tmp_path, local, mixture.manifest_hash)


def test_a_shard_that_shrinks_or_goes_while_in_use_is_noticed(tmp_path: Path, mixture: Mixture) -> None:
    shard = write(tmp_path, mixture, share_of(make_plan(mixture)))
    os.truncate(shard.path, shard.description.blocks[-1].offset + 8)
    with pytest.raises(ShardError, match="is cut short"):
        shard.read(3)
    shard.path.unlink()
    with pytest.raises(FileNotFoundError):
        shard.read(0)


def test_the_shard_of_another_plan_store_stage_or_rank_is_refused(tmp_path: Path, mixture: Mixture) -> None:
    plan = make_plan(mixture)
    shard = write(tmp_path, mixture, share_of(plan, world_size=2, rank=1))
    others = [
        (share_of(make_plan(mixture, seed=1), world_size=2, rank=1), "plan"),
        (share_of(plan, world_size=2, rank=0), "rank"),
        (share_of(plan, world_size=4, rank=1), "world_size"),
        (share_of(plan, first_step=4, world_size=2, rank=1), "stage"),
    ]
    for local, difference in others:
        for suffix in (".arrow", ".json"):
            content = shard.path.with_suffix(suffix).read_bytes()
            (tmp_path / local.name).with_suffix(suffix).write_bytes(content)
        with pytest.raises(ShardError, match=f"has another {difference}$"):
            open_shard(tmp_path, local, mixture.manifest_hash)
    with pytest.raises(ShardError, match=r"has another plan, manifest$"):
        open_shard(tmp_path, share_of(plan, world_size=2, rank=1), "0" * 64)


def test_a_shard_of_an_older_format_is_refused(tmp_path: Path, mixture: Mixture) -> None:
    local = share_of(make_plan(mixture))
    path = write(tmp_path, mixture, local).path.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 0}))
    with pytest.raises(ShardError, match="has another schema_version"):
        open_shard(tmp_path, local, mixture.manifest_hash)


def test_what_a_killed_writer_left_is_deleted_by_the_next(tmp_path: Path, mixture: Mixture) -> None:
    local = share_of(make_plan(mixture), world_size=2, rank=1)
    own, neighbour = ".stage-0-rank-1-of-2.arrow.abcdefgh", ".stage-0-rank-0-of-2.arrow.abcdefgh"
    for name in (own, neighbour):
        (tmp_path / name).touch()
    write(tmp_path, mixture, local)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{local.name}.arrow", f"{local.name}.json", neighbour}


@pytest.mark.parametrize("after", [0, 2])
def test_nothing_half_written_is_left(tmp_path: Path, mixture: Mixture, after: int) -> None:
    local = share_of(make_plan(mixture))

    def failing():  # type: ignore[no-untyped-def]
        yield from itertools.islice(StoreRecords(mixture, local).batches(), after)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, local, mixture.manifest_hash, failing())
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_over_is_deleted(tmp_path: Path, mixture: Mixture) -> None:
    over = ["stage-0-rank-0-of-2.arrow", "stage-0-rank-1-of-2.json", ".stage-0-rank-1-of-2.arrow.abcdefgh"]
    over += ["stage-1-rank-3-of-4.arrow", ".stage-2-rank-1-of-4.json.a1b2c3d4"]
    needed = ["stage-1-rank-0-of-2.arrow", "stage-2-rank-1-of-2.json", ".stage-2-rank-1-of-2.arrow.abcdefgh"]
    foreign = ["stage-0-notes.txt", "backstage-0-rank-0-of-2.arrow", "stage-0-rank-0-of-2.arrow.keep", "a"]
    for name in [*over, *needed, *foreign]:
        (tmp_path / name).touch()
    remove_old_shards(tmp_path, share_of(make_plan(mixture), first_step=4, world_size=2, rank=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*needed, *foreign])
