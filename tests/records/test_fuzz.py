"""10,000 malformed rows among 500 sound ones: no crash, no row lost, and each refusal says where and why."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mgh_ds.records.convert import REJECTED, convert
from mgh_ds.records.reader import read_records
from mgh_ds.records.rows import ErrorReport
from mgh_ds.records.store import Store
from tests.records.examples import record_values

MALFORMED = 10_000
SOUND = 500

TEXT_FIELDS = [
    "id",
    "language",
    "query",
    "positive",
    "task.instruction",
    "task.subtype",
    "task.kind",
    "negatives.2.text",
]
FIELDS = [*TEXT_FIELDS, "task", "negatives", "negatives.0", "negatives.3.level", "source", "source.dataset"]
WRONG = [True, 0, -1, 1.5, 10**30, [], {}, [[]], {"text": "a"}, [None], ["a", 1], "\ud800", "a\0b", " \n"]


def changed(values: dict[str, Any], path: str, change: Callable[[Any, Any], None]) -> dict[str, Any]:
    """`values` after `change(parent, key)` at a dotted path."""
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = values
    for parent in parents:
        place = place[parent]
    change(place, last)
    return values


def assigned(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    return changed(values, path, lambda parent, key: parent.__setitem__(key, value))


def dump(values: Any) -> bytes:
    return json.dumps(values).encode("ascii")


def with_null(rng: Random, values: dict[str, Any]) -> bytes:
    # A null level is sound: it says that the negative was never graded.
    return dump(assigned(values, rng.choice([path for path in FIELDS if path != "negatives.3.level"]), None))


def with_wrong_type(rng: Random, values: dict[str, Any]) -> bytes:
    path, value = rng.choice(FIELDS), rng.choice(WRONG)
    return dump(assigned(values, path, {"x": 1} if path == "negatives" and value == [] else value))


def with_empty_text(rng: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, rng.choice(TEXT_FIELDS), rng.choice(["", " ", "\t\r\n"])))


def with_huge_text(rng: Random, values: dict[str, Any]) -> bytes:
    # One in fifty has a megabyte; the others are just over the limit of a text.
    size = 2**20 if rng.random() < 0.02 else 100_001
    return dump(assigned(values, rng.choice(TEXT_FIELDS), "x" * size))


def with_known_id(_: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, "id", "sound-0"))


def with_nan(rng: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, rng.choice(FIELDS), rng.choice([float("nan"), float("inf"), -float("inf")])))


def with_overflowing_number(rng: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, rng.choice(FIELDS), "?")).replace(
        b'"?"', rng.choice([b"1e999", b"9" * 5_000])
    )


def with_deep_nesting(rng: Random, values: dict[str, Any]) -> bytes:
    depth = rng.choice([200, 2_000, 20_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    nested = opening * depth + (b"1" + closing * depth if rng.random() < 0.7 else b"")
    return dump(assigned(values, rng.choice(FIELDS), "?")).replace(b'"?"', nested)


def with_missing_key(rng: Random, values: dict[str, Any]) -> bytes:
    paths = [path for path in FIELDS if path != "negatives.0"]
    return dump(changed(values, rng.choice(paths), lambda parent, key: parent.pop(key)))


def with_unknown_key(rng: Random, values: dict[str, Any]) -> bytes:
    return dump(
        assigned(values, rng.choice(["", "task.", "negatives.1."]) + f"key_{rng.randrange(9)}", "value")
    )


def with_bad_level(rng: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, "negatives.3.level", rng.choice([0, 5, -1, "4", 4.0, True, [4], 2**70])))


def with_key_twice(rng: Random, values: dict[str, Any]) -> bytes:
    key = rng.choice(["id", "query", "level", "text", "dataset"])
    return dump(values).replace(f'"{key}":'.encode(), f'"{key}": "again", "{key}":'.encode(), 1)


def with_too_many_negatives(rng: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, "negatives", values["negatives"] * rng.choice([17, 1_000])))


def with_positive_as_negative(_: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, "negatives.1.text", f" {values['positive']} "))


def with_the_other_kind(_: Random, values: dict[str, Any]) -> bytes:
    return dump(assigned(values, "task.kind", "symmetric"))


def with_broken_utf8(rng: Random, values: dict[str, Any]) -> bytes:
    line = dump(values)
    place = rng.randrange(len(line))
    return (
        line[:place]
        + rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"])
        + line[place:]
    )


def cut_short(rng: Random, values: dict[str, Any]) -> bytes:
    line = dump(values)
    return line[: rng.randrange(1, len(line))]


def with_a_lost_character(rng: Random, values: dict[str, Any]) -> bytes:
    line = dump(values)
    place = rng.choice([place for place, byte in enumerate(line) if byte in b'{}[]":'])
    return line[:place] + line[place + 1 :]


def not_an_object(rng: Random, values: dict[str, Any]) -> bytes:
    return dump(rng.choice([None, True, 3, 0.5, "text", [], [values], list(values)]))


def noise(rng: Random, _: dict[str, Any]) -> bytes:
    return b"#" + rng.randbytes(rng.randrange(200)).replace(b"\n", b"\r")


MUTATIONS = [
    with_null, with_wrong_type, with_empty_text, with_huge_text, with_known_id, with_nan,
    with_overflowing_number, with_deep_nesting, with_missing_key, with_unknown_key, with_bad_level,
    with_key_twice, with_too_many_negatives, with_positive_as_negative, with_the_other_kind,
    with_broken_utf8, cut_short, with_a_lost_character, not_an_object, noise,
]  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """The file, and for each of its malformed lines the name of the mutation."""
    rng = Random(20250721)
    plan = [None] * (SOUND - 1) + [MUTATIONS[number % len(MUTATIONS)] for number in range(MALFORMED)]
    rng.shuffle(plan)
    path = tmp_path_factory.mktemp("fuzz") / "rows.jsonl"
    malformed = {}
    with path.open("wb") as file:
        for number, mutate in enumerate([None, *plan]):  # the first row is sound, for others to repeat its id
            values = record_values(number, id=f"{'malformed' if mutate else 'sound'}-{number}")
            file.write((mutate(rng, values) if mutate else dump(values)) + b"\n")
            if mutate:
                malformed[number + 1] = mutate.__name__
    return path, malformed


def test_every_malformed_row_is_refused_and_every_sound_one_kept(
    fuzzed: tuple[Path, dict[int, str]], tmp_path: Path
):
    path, malformed = fuzzed
    assert len(malformed) == MALFORMED
    summary = convert(path, tmp_path / "store", "mgh")

    rejected = [json.loads(line) for line in (summary.path / REJECTED).read_text().splitlines()]
    lines = {refusal["line"] for refusal in rejected}
    passed = Counter(name for line, name in malformed.items() if line not in lines)
    assert passed == Counter()
    assert lines == malformed.keys()
    report = summary.report
    assert (report.rows_read, report.accepted, report.rejected) == (MALFORMED + SOUND, SOUND, MALFORMED)
    assert [record.id for record in Store.open(summary.path)] == [
        f"sound-{number}" for number in range(MALFORMED + SOUND) if number + 1 not in malformed
    ]

    for refusal in rejected:
        assert refusal["file"] == str(path)
        assert refusal["field"]
        assert refusal["reason"]
        assert all(len(refusal[key]) <= 300 for key in ("field", "reason", "raw"))


EXPECTED_KINDS = {
    "with_huge_text": {"string_too_long", "literal_error", "string_pattern_mismatch"},
    "with_known_id": {"duplicate_id"},
    "with_nan": {"not_finite"},
    "with_broken_utf8": {"not_utf8"},
    "with_missing_key": {"missing", "missing_dataset"},
    "with_unknown_key": {"extra_forbidden"},
    "with_key_twice": {"duplicate_key"},
    "with_positive_as_negative": {"negative_is_positive"},
    "with_the_other_kind": {"kind_mismatch"},
    "with_too_many_negatives": {"too_long"},
    "cut_short": {"not_json"},
    "not_an_object": {"not_an_object"},
}


@pytest.mark.parametrize("name", EXPECTED_KINDS)
def test_the_reason_is_the_right_one(name: str, tmp_path: Path):
    mutate = {mutation.__name__: mutation for mutation in MUTATIONS}[name]
    rng = Random(1)
    path = tmp_path / "rows.jsonl"
    rows = [mutate(rng, record_values(number)) for number in range(1, 50)]
    path.write_bytes(b"\n".join([dump(record_values(0, id="sound-0")), *rows]))
    report = ErrorReport()
    assert len(list(read_records(path, report))) == 1
    assert {kind for _, kind in report.reasons} <= EXPECTED_KINDS[name]
