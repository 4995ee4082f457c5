"""The records that ship in the package, by name."""

from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.records import bundled
from mgh_ds.records.store import open_or_convert


@pytest.mark.parametrize(("name", "records"), [("sample:train", 360), ("mgh:held_out", 132)])
def test_bundled_records_are_found_from_any_folder(
    name: str, records: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_or_convert(name, tmp_path / "cache")
    assert len(store) == records
    by_path = open_or_convert(bundled.HERE / (name.replace(":", "/") + ".jsonl"), tmp_path / "cache")
    assert by_path.path == store.path, "a name and its file are the same store"


def test_other_paths_stay_as_they_are() -> None:
    assert bundled.resolve("data/nli") == Path("data/nli")
    assert bundled.resolve(Path("sample/train.jsonl")) == Path("sample/train.jsonl")
    assert bundled.resolve("mgh") == Path("mgh")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sample:trian", "did you mean `sample:train`? Known: sample:held_out, sample:train"),
        ("mgh:xyz", "called mgh:xyz. Known: mgh:held_out, mgh:train"),
    ],
)
def test_an_unknown_name_is_refused_with_those_there_are(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(MghError, match="no bundled records") as refused:
        open_or_convert(name, tmp_path)
    assert said in str(refused.value)
