"""The store gives back what was put in, shows nothing half-written, and notices every changed byte."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.records import store as store_module
from mgh_ds.records.columns import hash64
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, StoreIndex, StoreWriter, open_or_convert
from tests.records.examples import make_records, record_values, records, write_jsonl


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 7 records, so that a small store has several."""
    monkeypatch.setattr(store_module, "PART_ROWS", 7)


def write_store(path: Path, content: Iterable[Record]) -> Store:
    with StoreWriter(path) as writer:
        for record in content:
            writer.add(record)
    return Store.open(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(records(), min_size=1, max_size=4, unique_by=lambda record: record.id))
def test_any_record_comes_back(tmp_path_factory: pytest.TempPathFactory, content: list[Record]):
    store = write_store(tmp_path_factory.mktemp("any") / "store", content)
    assert list(store) == content


@pytest.mark.usefixtures("small_parts")
def test_rows_come_in_the_order_asked_for(tmp_path: Path):
    content = make_records(40)
    store = write_store(tmp_path / "store", content)
    assert len(store) == 40
    assert len(store.manifest.parts) == 6
    wanted = np.random.default_rng(0).integers(0, 40, size=200)
    assert store.rows(wanted) == [content[row] for row in wanted]
    assert store.ids(wanted) == [content[row].id for row in wanted]
    assert store.rows([]) == []
    for outside in ([40], [0, -1]):
        with pytest.raises(IndexError):
            store.rows(outside)


@pytest.mark.usefixtures("small_parts")
def test_parts_are_cut_by_size_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "PART_CHARS", 1_000)
    store = write_store(
        tmp_path / "store", [Record.model_validate(record_values(n, query="q" * 600)) for n in range(4)]
    )
    assert [part.rows for part in store.manifest.parts] == [2, 2]


@pytest.mark.usefixtures("small_parts")
def test_the_index_says_what_the_records_are(tmp_path: Path):
    rng = np.random.default_rng(1)
    content = []
    for number in range(30):
        levels = rng.choice([None, 1, 2, 3, 4], size=rng.integers(0, 12)).tolist()
        negatives = [{"text": "ä" * int(rng.integers(1, 99)), "level": level} for level in levels]
        task = record_values()["task"] | {"instruction": f"Instruction {number % 3}"}
        content.append(Record.model_validate(record_values(number, negatives=negatives, task=task)))
    index = write_store(tmp_path / "store", content).index()

    assert len(index) == len(content)
    assert index.id_hash.tolist() == [hash64(record.id) for record in content]
    tasks = [(record.task.instruction, record.task.subtype) for record in content]
    assert index.task_hash.tolist() == [hash64(*task) for task in tasks]
    assert index.query_chars.tolist() == [len(record.query) for record in content]
    assert index.positive_chars.tolist() == [len(record.positive) for record in content]
    for row, record in enumerate(content):
        for column, level in enumerate([None, 1, 2, 3, 4]):
            lengths = [len(negative.text) for negative in record.negatives if negative.level == level]
            assert index.level_counts[row, column] == len(lengths)
            assert index.level_chars[row, column] == max(lengths, default=0)
    dtypes = [getattr(index, name).dtype.name for name in StoreIndex.__dataclass_fields__]
    assert dtypes == ["uint64", "uint64", "int32", "int32", "int32", "uint8", "uint8"]
    assert not index.scored.any()
    assert index.level_chars.shape == index.level_counts.shape == (30, 5)


SCORED = [
    record_values(3, score=0.1, negatives=[{"text": "n", "level": 4}]),
    record_values(5, score=-7, negatives=[{"text": "n", "level": None, "score": 1 / 3}]),
    record_values(6, negatives=[{"text": "n", "level": 1, "score": 2.5}, {"text": "m", "level": 1}]),
    record_values(15, score=1e-300, negatives=[]),
]


@pytest.mark.usefixtures("small_parts")
def test_scores_come_back_and_the_index_knows_of_them(tmp_path: Path):
    content = make_records(30)
    for values in SCORED:
        record = Record.model_validate(values)
        content[int(record.id.removeprefix("record-"))] = record
    store = write_store(tmp_path / "store", content)
    assert list(store) == content
    assert [record.score for record in store.rows([15, 9, 3])] == [1e-300, None, 0.1]  # of three parts
    index = store.index()
    assert {row: int(found) for row, found in enumerate(index.scored) if found} == {3: 1, 5: 2, 15: 2}


@pytest.mark.usefixtures("small_parts")
def test_only_parts_with_scores_have_columns_for_them(tmp_path: Path):
    """What has none is the same bytes as before there were scores: plans and checkpoints know it by its
    hash."""
    plain = write_store(tmp_path / "plain", make_records(20))
    content = [*make_records(19), Record.model_validate(record_values(19, score=1))]
    scored = write_store(tmp_path / "scored", content)
    versions = [store.manifest.schema_version for store in (plain, scored)]
    columns = [
        {name for part in store.manifest.parts for name in part_columns(store.path / part.file)}
        for store in (plain, scored)
    ]
    assert versions == [1, 2]
    assert columns[1] - columns[0] == {"score", "negative_scores", "scored"}
    assert "level_counts" in columns[0]
    assert plain.manifest.parts[:2] == scored.manifest.parts[:2]


def part_columns(path: Path) -> list[str]:
    names: list[str] = store_module.pa.ipc.open_file(path.read_bytes()).schema.names
    return names


def test_hash64_is_fixed():
    # Plans and checkpoints depend on these values: they may not change between versions.
    assert hash64("record-0") == 5666707428095744810
    assert hash64("a", "b") == 11797832347080049151
    assert hash64("ab") != hash64("a", "b")


@pytest.mark.usefixtures("small_parts")
def test_the_manifest_hash_follows_the_content(tmp_path: Path):
    content = make_records(20)
    store = write_store(tmp_path / "a", content)
    assert write_store(tmp_path / "b", content).manifest_hash == store.manifest_hash
    changes = [
        {"id": "record-x"},
        {"query": content[9].query + "?"},
        {"positive": content[9].positive[:-1] + ","},
        {"language": "eo"},
        {"source": {"dataset": "examplez", "domain": "facts"}},
        {"negatives": record_values(9)["negatives"][:3]},
    ]
    hashes = {store.manifest_hash}
    for number, change in enumerate(changes):
        changed = [*content[:9], Record.model_validate(record_values(9) | change), *content[10:]]
        hashes.add(write_store(tmp_path / f"change-{number}", changed).manifest_hash)
    assert len(hashes) == 1 + len(changes)


@pytest.mark.usefixtures("small_parts")
def test_one_changed_byte_is_noticed(tmp_path: Path):
    store = write_store(tmp_path / "store", make_records(20))
    store.verify()
    for part in store.manifest.parts:
        path = store.path / part.file
        whole = path.read_bytes()
        for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(MghError, match=f"{part.file} is damaged"):
                store.verify()
        path.write_bytes(whole)
    store.verify()


def damage_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is not a store"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "schema version None"),
        (
            lambda folder: damage_manifest(folder, schema_version=3),
            "schema version 3, this program reads versions 1 and 2",
        ),
        (lambda folder: damage_manifest(folder, rows="3"), "is damaged"),
        (lambda folder: damage_manifest(folder, rows=4), "do not add up"),
        (lambda folder: damage_manifest(folder, extra=1), "is damaged"),
        (lambda folder: (folder / "part-00000.arrow").unlink(), "part-00000.arrow is missing"),
        (
            lambda folder: os.truncate(folder / "part-00000.arrow", 100),
            "has 100 bytes where the manifest says",
        ),
        (lambda folder: blank(folder / "part-00000.arrow"), "part-00000.arrow is damaged"),
    ],
)
def test_a_damaged_store_is_not_opened(tmp_path: Path, damage: Any, message: str):
    store = write_store(tmp_path / "store", make_records(3))
    damage(store.path)
    with pytest.raises(MghError, match=message):
        Store.open(store.path)


def blank(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def test_damage_inside_a_text_is_an_error_where_it_is_read(tmp_path: Path):
    store = write_store(tmp_path / "store", make_records(3))
    path = store.path / "part-00000.arrow"
    content = path.read_bytes()
    assert content.count(b"What is fact 1?") == 1
    path.write_bytes(content.replace(b"What is fact 1?", b"What is fact \xff?"))
    damaged = Store.open(store.path)
    assert damaged.rows([0, 2]) == [make_records(3)[0], make_records(3)[2]]
    with pytest.raises(MghError, match="is damaged"):
        damaged.rows([1])


def assert_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_an_empty_store_is_refused(tmp_path: Path):
    with pytest.raises(MghError, match="No record"), StoreWriter(tmp_path / "store"):
        pass
    assert_nothing_left(tmp_path)


@pytest.mark.usefixtures("small_parts")
def test_equal_ids_are_refused(tmp_path: Path):
    content = make_records(20)
    with pytest.raises(MghError, match=r"Records 3 \('record-3'\) and 20 \('record-3'\)"):
        write_store(tmp_path / "store", [*content, content[3]])
    assert_nothing_left(tmp_path)


def test_a_store_is_not_overwritten(tmp_path: Path):
    store = write_store(tmp_path / "store", make_records(1))
    with pytest.raises(MghError, match="exists already"):
        write_store(store.path, make_records(2))
    assert len(Store.open(store.path)) == 1


def test_an_error_while_writing_leaves_nothing(tmp_path: Path):
    def records_until_the_error() -> Iterator[Record]:
        yield from make_records(1)
        [temporary] = tmp_path.iterdir()
        assert temporary.name.startswith(".")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_store(tmp_path / "store", records_until_the_error())
    assert_nothing_left(tmp_path)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("failing_part", [0, 2])
def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_part: int
):
    whole_file = store_module.pa.OSFile

    def full(path: str, mode: str) -> Any:
        if path.endswith(f"part-{failing_part:05d}.arrow"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole_file(path, mode)

    monkeypatch.setattr(store_module.pa, "OSFile", full)
    with pytest.raises(MghError, match="disk is full"):
        write_store(tmp_path / "store", make_records(20))
    assert_nothing_left(tmp_path)


def test_a_disk_that_fills_at_the_very_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, f"No space left on device: {folder}")

    monkeypatch.setattr(files, "sync_tree", full)
    with pytest.raises(MghError, match="disk is full"):
        write_store(tmp_path / "store", make_records(3))
    assert_nothing_left(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from mgh_ds.records import store
from tests.records.examples import make_records
store.PART_ROWS = 2
with store.StoreWriter(Path(sys.argv[1])) as writer:
    for record in make_records(9):
        writer.add(record)
    assert len(list(writer.folder.iterdir())) == 4
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_shows_nothing_and_bars_nobody(tmp_path: Path):
    path = tmp_path / "store"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, path], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    with pytest.raises(MghError, match="is not a store"):
        Store.open(path)
    assert len(write_store(path, make_records(3))) == 3


def test_open_or_convert_a_file(tmp_path: Path):
    cache = tmp_path / "cache"
    path = write_jsonl(tmp_path / "train.jsonl", [record_values(number) for number in range(3)])
    store = open_or_convert(str(path), cache)
    assert list(store) == make_records(3)
    [folder] = cache.iterdir()
    made = (folder / "manifest.json").stat().st_mtime_ns
    assert open_or_convert(path, cache).manifest_hash == store.manifest_hash
    assert (folder / "manifest.json").stat().st_mtime_ns == made  # found, not made again
    write_jsonl(path, [record_values(number) for number in range(4)])
    assert len(open_or_convert(path, cache)) == 4
    assert open_or_convert(folder, cache).manifest_hash == store.manifest_hash


def test_open_or_convert_refuses_what_cannot_be_trained_on(tmp_path: Path):
    cache = tmp_path / "cache"
    with pytest.raises(MghError, match="does not exist: give a store's folder or a JSONL file"):
        open_or_convert(tmp_path / "missing.jsonl", cache)
    with pytest.raises(MghError, match="is not a store"):
        open_or_convert(tmp_path, cache)
    with pytest.raises(MghError, match="is empty"):
        open_or_convert(write_jsonl(tmp_path / "empty.jsonl", []), cache)
    with pytest.raises(MghError, match="line 2, field 'query'"):
        open_or_convert(
            write_jsonl(tmp_path / "bad.jsonl", [record_values(), record_values(1, query="")]), cache
        )
    assert_nothing_left(cache)
