"""What is on disk is either whole or not read: torn journals, damaged parts, parts that are there already."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.counts import Counts
from mgh_ds.synthesis.journal import Journal, read_journal
from mgh_ds.synthesis.parts import PartSummary, read_part, read_summary, write_part
from mgh_ds.synthesis.unit_row import COLUMNS, UnitRow

ENTRIES = [
    {"unit_id": "a", "text": "ärger \ud800 \x00"},
    {"unit_id": "b", "text": "x" * 5_000},
    {"unit_id": "c"},
]


def journal_bytes(folder: Path) -> bytes:
    path = folder / "whole.journal"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    journal.append(ENTRIES[:1])
    journal.append(ENTRIES[1:])
    journal.sync()
    journal.close()
    return path.read_bytes()


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    journal_bytes(tmp_path)
    found = list(read_journal(tmp_path / "whole.journal"))
    assert found[0]["text"] == "ärger ? \x00"  # half a surrogate pair has no UTF-8
    assert found[1:] == ENTRIES[1:]


def test_a_journal_is_never_opened_twice(tmp_path: Path) -> None:
    journal_bytes(tmp_path)
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "whole.journal")


def test_a_new_journals_name_is_on_disk_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, bool]] = []
    path = tmp_path / "new.journal"
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append((folder, path.exists())))
    Journal(path).close()
    assert synced == [(tmp_path, True)]


def test_a_closed_journal_may_be_synced_and_closed_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new.journal")
    journal.append(ENTRIES)
    journal.close()
    journal.sync()
    journal.close()


def test_a_journal_cut_anywhere_gives_its_whole_entries(tmp_path: Path) -> None:
    data = journal_bytes(tmp_path)
    whole = list(read_journal(tmp_path / "whole.journal"))
    torn = tmp_path / "torn.journal"
    counts = set()
    for end in [*range(120), *range(len(data) - 40, len(data))]:
        torn.write_bytes(data[:end])
        found = list(read_journal(torn))
        assert found == whole[: len(found)]
        counts.add(len(found))
    assert counts == {0, 1, 2}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_ends_the_reading_there(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("flip")
    content = bytearray(journal_bytes(folder))
    whole = list(read_journal(folder / "whole.journal"))
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << place % 8
    (folder / "flipped.journal").write_bytes(content)
    found = list(read_journal(folder / "flipped.journal"))
    assert found == whole[: len(found)]
    assert len(found) < len(whole)


def rows(count: int, text: str = "answer") -> list[UnitRow]:
    empty: dict[str, Any] = {field.name: "" if str(field.type) == "string" else 0 for field in COLUMNS}
    return [
        UnitRow(**empty | {"unit_id": f"{number:04d}", "text": f"{text} {number}"})
        for number in reversed(range(count))
    ]


def summary() -> PartSummary:
    return PartSummary("scope", 3, 1, 7, Counts(units=40, accepted=38))


def test_a_part_is_sorted_and_knows_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "part-00007.parquet"
    write_part(path, rows(40), summary())
    assert read_summary(path) == summary()
    ids = read_part(path).column("unit_id").to_pylist()
    assert ids == sorted(ids)
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_is_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "part-00007.parquet"
    write_part(path, rows(40), summary())
    before = path.read_bytes()
    write_part(path, rows(40, "another"), summary())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_equal_rows_make_equal_bytes_in_any_order(tmp_path: Path) -> None:
    write_part(tmp_path / "a", rows(40), summary())
    write_part(tmp_path / "b", rows(40)[::-1], summary())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_cut_or_flipped_part_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "part-00007.parquet"
    write_part(path, rows(400), summary())
    data = path.read_bytes()
    for end in (0, 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(MghError, match=r"part-00007\.parquet is damaged"):
            read_part(path)
    refused = 0
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with contextlib.suppress(MghError):
            # Some bits, such as those of the footer's statistics, no content depends on.
            found = read_part(path)
            assert found.column("text").to_pylist() == [row.text for row in rows(400)[::-1]]
            continue
        refused += 1
    assert refused > 0
