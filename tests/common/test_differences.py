"""Where two configurations differ."""

from mgh_ds.common.differences import differences

FIRST, SECOND = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": {"f": 1}}


def test_differences_are_named_by_their_path() -> None:
    found = differences(FIRST, SECOND)
    assert list(map(str, found)) == ["a.c: 2 → 5", "d: 3 → (no such key)", "e: (no such key) → {'f': 1}"]
    assert found[0] == ("a.c", 2, 5)


def test_equals_have_none() -> None:
    assert differences(FIRST, dict(FIRST)) == []
