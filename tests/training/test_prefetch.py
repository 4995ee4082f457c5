"""The prefetcher gives every step what the plan says, ahead of time, whatever becomes of the shards."""

import dataclasses
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import CurriculumConfig, Loader, MicroBatch, TrainingPlan
from mgh_ds.curriculum.shards import LocalStage
from mgh_ds.losses.base import Labels
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.store import Store
from mgh_ds.training import prefetch as prefetch_module
from mgh_ds.training import stage_data
from mgh_ds.training.batch import Batch, make_batch
from mgh_ds.training.prefetch import DEPTH, Prefetcher, shards_folder

STEPS = 18  # three stages of 6


@pytest.fixture(scope="module")
def plan(store: Store) -> TrainingPlan:
    config = CurriculumConfig(homogeneous=False)
    return TrainingPlan(
        store.index(), config, steps=STEPS, global_batch=16, micro_batch=2, negative_groups=2, seed=0
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_model(ModelConfig(name_or_path="tiny-random/mistral", lora=None, max_length=96), seed=0)[1]


@pytest.fixture
def make_prefetcher(
    store: Store, plan: TrainingPlan, tokenizer: Tokenizer, tmp_path: Path
) -> Callable[..., Prefetcher]:
    def make(first_step: int = 0, store: Store = store) -> Prefetcher:
        return Prefetcher(store, plan, tokenizer, folder=tmp_path / "shards", first_step=first_step)

    return make


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes this process rank r of W. Alone it cannot prove what all ranks have: that is left out."""

    def become(world_size: int, rank: int) -> None:
        monkeypatch.setattr(prefetch_module, "world_size", lambda: world_size)
        monkeypatch.setattr(prefetch_module, "rank", lambda: rank)
        monkeypatch.setattr(prefetch_module, "verify", lambda _local, _manifest, found: found)

    return become


def assert_same(found: list[Batch], expected: list[MicroBatch], tokenizer: Tokenizer) -> None:
    assert len(found) == len(expected)
    for batch, texts in zip(found, expected, strict=True):
        assert (batch.ids, batch.seed, batch.group) == (texts.ids, texts.seed, texts.group)
        assert batch.labels.guide is None
        assert not batch.guide
        for field in dataclasses.fields(Labels):
            if field.name == "guide":
                continue
            wanted = (
                np.full(len(texts.ids), texts.group) if field.name == "group" else getattr(texts, field.name)
            )
            np.testing.assert_array_equal(getattr(batch.labels, field.name), wanted)
        for part, wanted in zip(batch.tokens, make_batch(texts, tokenizer).tokens, strict=True):
            assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(part, wanted, strict=True))


@pytest.mark.parametrize(("world_size", "rank"), [(1, 0), (2, 1), (3, 0), (3, 2), (8, 5)])
def test_every_step_is_what_the_store_gives(
    make_prefetcher: Callable[..., Prefetcher],
    as_rank: Callable[[int, int], None],
    store: Store,
    plan: TrainingPlan,
    tokenizer: Tokenizer,
    world_size: int,
    rank: int,
) -> None:
    as_rank(world_size, rank)
    loader = Loader(store, plan)
    with make_prefetcher() as prefetcher:
        for step in range(STEPS):
            batches, waited = prefetcher.take(step)
            assert_same(batches, loader.micro_batches(step, world_size, rank), tokenizer)
            assert waited >= 0


def take_all(
    prefetcher: Prefetcher, plan: TrainingPlan, tokenizer: Tokenizer, first: int = 0, end: int = STEPS
) -> None:
    loader = Loader(prefetcher.store, plan)
    for step in range(first, end):
        assert_same(prefetcher.take(step)[0], loader.micro_batches(step, 1, 0), tokenizer)


def test_shards_are_written_a_stage_ahead_and_deleted_behind(
    make_prefetcher: Callable[..., Prefetcher],
) -> None:
    with make_prefetcher() as prefetcher:
        for step in range(STEPS):
            prefetcher.take(step)
            if step % 6 == 3:
                assert prefetcher._coming is not None
                prefetcher._coming.result()
                stages = sorted(int(path.name.split("-")[1]) for path in prefetcher.folder.glob("*.arrow"))
                assert stages == [step // 6, step // 6 + 1][: 3 - step // 6]
    assert not prefetcher.folder.exists(), "a finished run leaves none"


@pytest.mark.parametrize("first_step", [1, 5, 6, 17, 18])
def test_a_run_goes_on_in_the_middle_and_uses_the_shard_it_finds(
    make_prefetcher: Callable[..., Prefetcher],
    plan: TrainingPlan,
    tokenizer: Tokenizer,
    first_step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make_prefetcher() as prefetcher:
        take_all(prefetcher, plan, tokenizer, end=first_step)
    written = []
    original = prefetch_module.prepare

    def watched(store, local, *arguments):  # type: ignore[no-untyped-def]
        path = prefetcher.folder / f"{local.name}.arrow"
        before = path.stat().st_mtime_ns if path.exists() else None
        ready = original(store, local, *arguments)
        if before != path.stat().st_mtime_ns:
            written.append(local.stage.index)
        return ready

    monkeypatch.setattr(prefetch_module, "prepare", watched)
    with make_prefetcher(first_step) as prefetcher:
        take_all(prefetcher, plan, tokenizer, first=first_step)
    # The stage that was under way has its shard; that of the next may have been interrupted.
    assert (first_step // 6 in written) is (first_step == 6 and 1 in written)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content), 5000):
        content[place] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_a_shard_that_fails_in_use_is_written_anew_while_training_goes_on(
    make_prefetcher: Callable[..., Prefetcher],
    plan: TrainingPlan,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], object],
) -> None:
    with make_prefetcher() as prefetcher:
        take_all(prefetcher, plan, tokenizer, end=1)
        path = prefetcher.folder / "stage-0-rank-0-of-1.arrow"
        harm(path)
        take_all(prefetcher, plan, tokenizer, first=1, end=4)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        assert re.search(r"level 1`, rank 0: .*written anew, and the store itself read meanwhile", lines[0])
        assert prefetcher._rows is not None
        if prefetcher._rows._rewritten is not None:
            prefetcher._rows._rewritten.result()
        assert path.exists()
        take_all(prefetcher, plan, tokenizer, first=4)
    assert capsys.readouterr().out == ""


def test_a_rewritten_shard_is_used(make_prefetcher: Callable[..., Prefetcher]) -> None:
    with make_prefetcher() as prefetcher:
        prefetcher.take(0)
        assert prefetcher._rows is not None
        for future in prefetcher._ahead:
            future.result()
        (prefetcher.folder / "stage-0-rank-0-of-1.arrow").unlink()
        rows = prefetcher._rows
        rows.records(3)
        assert rows._rewritten is not None
        rewritten = rows._rewritten.result().rows
        rows.records(4)
        assert rows._rows is rewritten


def test_other_records_than_planned_are_not_trained_on(
    make_prefetcher: Callable[..., Prefetcher],
    plan: TrainingPlan,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As totals would not show it: a step's own records in another order."""
    with make_prefetcher() as prefetcher:
        prefetcher.take(0)
        assert prefetcher._rows is not None
        for future in prefetcher._ahead:
            future.result()
        shard = prefetcher._rows._rows
        original = shard.read
        shard.read = lambda step: original(step).take(list(range(16))[::-1])  # type: ignore[method-assign]
        take_all(prefetcher, plan, tokenizer, first=1)
    (line,) = capsys.readouterr().out.splitlines()
    assert "other records than the plan says for step 3" in line  # two steps had been read


def test_a_shard_that_is_still_written_anew_is_given_up_at_the_stage_s_end(
    make_prefetcher: Callable[..., Prefetcher],
    plan: TrainingPlan,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its files are removed then, which would otherwise look like a disk that fails."""
    write, given_up = stage_data.write_shard, []

    def slow(folder: Path, local: LocalStage, store: str, batches: Iterable[Any]) -> Any:
        def late() -> Iterator[Any]:
            for batch in batches:
                while local.first_step == 2 and not given_up:
                    given_up.extend([2] * rows._left.wait(0.01))
                yield batch

        return write(folder, local, store, late())

    monkeypatch.setattr(stage_data, "write_shard", slow)
    with make_prefetcher() as prefetcher:
        prefetcher.take(0)
        rows = prefetcher._rows
        assert rows is not None
        rows._give_up(OSError("the disk coughs"), 1)
        take_all(prefetcher, plan, tokenizer, first=1)
    assert given_up == [2]
    (line,) = capsys.readouterr().out.splitlines()
    assert "the disk coughs" in line


def test_without_a_disk_training_goes_on_from_the_store(
    make_prefetcher: Callable[..., Prefetcher],
    plan: TrainingPlan,
    tokenizer: Tokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "shards").write_text("a file where the folder should be")
    with make_prefetcher() as prefetcher:
        take_all(prefetcher, plan, tokenizer)
    said = [line for line in capsys.readouterr().out.splitlines() if "no shard" in line]
    assert len(said) == 3, "one line a stage"
    assert (tmp_path / "shards").is_file()


def test_steps_are_read_ahead_but_never_beyond_the_stage_that_was_verified(
    make_prefetcher: Callable[..., Prefetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    verified: list[int] = []
    original, verify = Prefetcher._batches, prefetch_module.verify

    def reading(prefetcher: Prefetcher, rows: prefetch_module.StageReader, step: int) -> list[Batch]:
        assert verified[-1] <= step < verified[-1] + 6
        read.append(step)
        return original(prefetcher, rows, step)

    def verifying(local, manifest, found):  # type: ignore[no-untyped-def]
        assert threading.current_thread() is threading.main_thread()
        verified.append(local.first_step)
        return verify(local, manifest, found)

    monkeypatch.setattr(Prefetcher, "_batches", reading)
    monkeypatch.setattr(prefetch_module, "verify", verifying)
    with make_prefetcher() as prefetcher:
        for step in range(STEPS):
            prefetcher.take(step)
            for future in prefetcher._ahead:
                future.result()
            assert read == list(range(min(step + 1 + DEPTH, verified[-1] + 6)))
    assert verified == [0, 6, 12]


def test_steps_are_taken_in_order(make_prefetcher: Callable[..., Prefetcher]) -> None:
    with make_prefetcher(3) as prefetcher:
        for wrong in (0, 4):
            with pytest.raises(ValueError, match="3 is the next"):
                prefetcher.take(wrong)
        prefetcher.take(3)


def test_an_error_in_the_background_reaches_the_step_it_belongs_to(
    make_prefetcher: Callable[..., Prefetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(batch: MicroBatch, tokenizer: Tokenizer) -> Batch:
        calls.append(batch)
        if len(calls) == 8 * 2 + 1:
            raise MghError("max_length leaves no room")
        return make_batch(batch, tokenizer)

    monkeypatch.setattr(prefetch_module, "make_batch", failing)
    with pytest.raises(MghError, match="leaves no room"), make_prefetcher() as prefetcher:  # noqa: PT012
        prefetcher.take(0)
        prefetcher.take(1)
        prefetcher.take(2)
    assert prefetcher._next == 2
    assert_no_threads()


def test_a_damaged_store_is_told_at_the_boundary(
    make_prefetcher: Callable[..., Prefetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch_module, "prepare", raising(MghError("the store is damaged")))
    with pytest.raises(MghError, match="the store is damaged"), make_prefetcher() as prefetcher:
        prefetcher.take(0)
    assert_no_threads()


def raising(error: Exception) -> Callable[..., object]:
    def function(*_: object) -> object:
        raise error

    return function


def assert_no_threads() -> None:
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch-")]


def test_leaving_ends_the_threads_and_leaves_the_shards(
    make_prefetcher: Callable[..., Prefetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, original = Event(), prefetch_module.prepare

    def endless(store, local, folder, stop):  # type: ignore[no-untyped-def]
        if local.stage.index == 1:
            writing.set()
            assert stop.wait(60)
        return original(store, local, folder, stop)

    monkeypatch.setattr(prefetch_module, "prepare", endless)
    with pytest.raises(KeyboardInterrupt), make_prefetcher() as prefetcher:  # noqa: PT012
        prefetcher.take(0)
        assert writing.wait(60)
        raise KeyboardInterrupt
    assert_no_threads()
    assert sorted(path.name for path in prefetcher.folder.iterdir()) == [
        "stage-0-rank-0-of-1.arrow",
        "stage-0-rank-0-of-1.json",
    ]


@pytest.mark.parametrize("taken", [0, 2, 7])
def test_a_run_that_ends_before_its_plan_leaves_no_shard(
    taken: int, make_prefetcher: Callable[..., Prefetcher]
) -> None:
    with make_prefetcher() as prefetcher:
        for step in range(taken):
            prefetcher.take(step)
        prefetcher.end()
    assert_no_threads()
    assert not prefetcher.folder.exists()


def test_a_run_that_ends_while_a_written_shard_is_counted_leaves_no_shard(
    make_prefetcher: Callable[..., Prefetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, counted = Event(), stage_data.count

    def count_until_stopped(batches: Iterable[tuple[int, pa.RecordBatch]]) -> stage_data.Totals:
        counting.set()
        assert prefetcher._stop.wait(60)
        return counted(batches)

    monkeypatch.setattr(stage_data, "count", count_until_stopped)
    with make_prefetcher() as prefetcher:
        assert counting.wait(60)
        assert list(prefetcher.folder.glob("*.arrow"))
        prefetcher.end()
    assert not prefetcher.folder.exists()


def test_the_folder_is_the_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shards_folder(None, tmp_path / "run") == tmp_path / "run" / "shards"
    monkeypatch.setenv("LOCAL_DISK", "/local")
    one, other = (shards_folder("$LOCAL_DISK/mgh", tmp_path / parent / "run") for parent in "ab")
    assert one.parent == other.parent == Path("/local/mgh")
    assert one.name.startswith("run-")
    assert one != other
    monkeypatch.delenv("LOCAL_DISK")
    with pytest.raises(MghError, match=r"data\.shards is \$LOCAL_DISK/mgh, but the environment has no such"):
        shards_folder("$LOCAL_DISK/mgh", tmp_path / "run")
