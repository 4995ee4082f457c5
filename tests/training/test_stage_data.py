"""A stage begins when all ranks together have what the plan says; whoever has not is named on every rank."""

import re
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from mgh_ds.common import files
from mgh_ds.curriculum import shards
from mgh_ds.curriculum.plan import TrainingPlan
from mgh_ds.curriculum.shards import LocalStage, StageShard, StoreRecords
from mgh_ds.records.store import Store, to_records
from mgh_ds.training.stage_data import (
    CancelledError,
    Message,
    Totals,
    count,
    find_difference,
    planned,
    planned_by_all,
    prepare,
)
from tests.ranks import run_ranks
from tests.training import stage_data_worker


@pytest.fixture
def plan(store: Store) -> TrainingPlan:
    return stage_data_worker.make_plan(store)


@pytest.fixture
def local(plan: TrainingPlan) -> LocalStage:
    return LocalStage(plan, plan.stage(1), 1, 2, 1)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_honest_ranks_go_on_and_a_cheating_one_is_named_by_all(
    world_size: int, store: Store, tmp_path: Path
) -> None:
    outputs = run_ranks(world_size, stage_data_worker.prove_all, store.path, tmp_path)
    last, stage = world_size - 1, r"stage `level 1` cannot begin at step 1: "
    cheated = rf"{stage}rank {last} has other records than the plan gives it \({{}}, planned .*"
    expected = {
        "swapped": cheated.format(r"id_sum \d+"),
        "missing": cheated.format(r"records \d+"),
        "doubled": cheated.format(r"records \d+"),
        "in_place_of_another": cheated.format(r"id_sum \d+"),
        "shortened": cheated.format(r"characters \d+"),
    }
    if world_size > 1:
        expected["seed"] = rf"{stage}rank {last} has another plan than rank 0: .*"
    counted = 0
    for rank, output in enumerate(outputs):
        lines = dict(line.split(": ", 1) for line in output.splitlines() if not line.startswith("stage"))
        counted += int(lines["honest"].split()[0])
        for name, pattern in expected.items():
            assert re.fullmatch(pattern, lines[name]), lines[name]
        failed = rf"{stage}rank {last} could not read its records; its own message says why"
        own = "the store is damaged"
        assert re.fullmatch(own if rank == last else failed, lines["unreadable"]), lines["unreadable"]
        whole = int(lines["honest"].split()[-1])
    assert counted == whole > 53, "steps 1 to 5 are more than an epoch"


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_the_ranks_parts_add_up_to_the_whole(world_size: int, store: Store, plan: TrainingPlan) -> None:
    locals_ = [LocalStage(plan, plan.stage(6), 8, world_size, rank) for rank in range(world_size)]
    totals = [planned(local) for local in locals_]
    assert totals == [count(StoreRecords(store, local).batches()) for local in locals_]
    whole = planned_by_all(locals_[0])
    assert sum(one.records for one in totals) == whole.records > 0
    assert sum(one.id_sum for one in totals) % 2**64 == whole.id_sum
    assert np.bitwise_xor.reduce(np.array([one.id_xor for one in totals], dtype=np.uint64)) == whole.id_xor
    assert sum(one.characters for one in totals) == whole.characters


def test_a_record_moved_to_another_step_is_noticed(store: Store, local: LocalStage) -> None:
    batches = [batch for _, batch in StoreRecords(store, local).batches()]
    assert count(zip(local.steps, batches, strict=True)) == planned(local)
    batches[0], batches[1] = batches[1], batches[0]
    assert count(zip(local.steps, batches, strict=True)) != planned(local)


def message(**changes: object) -> Message:
    half, whole = Totals(8, 2**63 + 1, 5, 90), Totals(16, 2, 0, 180)
    fields = {"plan": b"p" * 32, "manifest": b"m" * 32, "stage": 1, "first_step": 6, "failed": 0}
    fields |= {"counted": half, "planned": half, "planned_by_all": whole}
    return Message(**(fields | changes))  # type: ignore[arg-type]


def test_a_message_survives_its_journey() -> None:
    assert message().pack().dtype == np.int64
    assert len(message().pack()) == 23
    assert Message.unpack(message().pack()) == message()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"stage": 2}, "rank 1 is at another stage than rank 0"),
        ({"first_step": 7}, "rank 1 is at another step than rank 0"),
        ({"manifest": b"n" * 32}, "rank 1 is at another store than rank 0"),
        ({"plan": b"q" * 32}, "rank 1 has another plan"),
        ({"planned_by_all": Totals(16, 2, 1, 180)}, "rank 1 has another plan"),
        ({"counted": Totals(7, 2**63 + 1, 5, 90)}, r"rank 1 has other records .*records 7, planned 8"),
        (
            {"counted": Totals(9, 0, 5, 90), "planned": Totals(9, 0, 5, 90)},
            r"do not add up to the plan \(records 17, planned 16, id_sum",
        ),
    ],
)
def test_every_difference_is_named(change: dict[str, object], words: str | None) -> None:
    found = find_difference([message(), message(**change)])
    assert found == words if words is None else re.search(words, str(found))


def make(store: Store, local: LocalStage, folder: Path):  # type: ignore[no-untyped-def]
    ready = prepare(store, local, folder, Event())
    assert ready.counted == ready.planned == planned(local)
    for step in local.steps:
        assert to_records(ready.rows.read(step)) == store.rows(local.rows(step))
    return ready.rows


def test_a_good_shard_is_not_written_again(
    store: Store, local: LocalStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make(store, local, tmp_path)
    before = first.path.stat().st_mtime_ns
    assert isinstance(make(store, local, tmp_path), StageShard)
    assert first.path.stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip, "is damaged in step"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "is cut short"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.with_suffix(".json").write_text("{"), "json is damaged"),
    ],
)
def test_a_bad_shard_is_written_anew_and_that_is_said_in_one_line(
    store: Store,
    local: LocalStage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], object],
    message: str,
) -> None:
    harm(make(store, local, tmp_path).path)
    assert isinstance(make(store, local, tmp_path), StageShard)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"stage `level 1`, rank 1: .*{message}.*: it is written anew", line)


def test_a_full_disk_costs_the_shard_and_not_the_run(
    store: Store,
    local: LocalStage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert isinstance(make(store, local, tmp_path), StoreRecords)
    (line,) = capsys.readouterr().out.splitlines()
    assert "No space left on device: no shard, the store itself is read instead" in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_the_shard_and_not_the_run(
    store: Store, local: LocalStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert isinstance(make(store, local, tmp_path / "file" / "shards"), StoreRecords)
    assert capsys.readouterr().out.splitlines()[-1].endswith("which may be slower")


def test_a_disk_that_does_not_keep_what_it_was_given_is_not_trusted(
    store: Store, local: LocalStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = shards.write_shard

    def forgetful(*arguments):  # type: ignore[no-untyped-def]
        shard = original(*arguments)
        flip(shard.path)
        return shard

    monkeypatch.setattr("mgh_ds.training.stage_data.write_shard", forgetful)
    assert isinstance(make(store, local, tmp_path), StoreRecords)


def test_writing_ends_soon_after_it_was_told_to(store: Store, local: LocalStage, tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(CancelledError):
        prepare(store, local, tmp_path, stop)
    assert list(tmp_path.iterdir()) == []
