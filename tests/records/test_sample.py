"""An audit of the bundled sample by an embedder that was not trained on it: what its data card claims is
measured here."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mgh_ds import Encoder
from mgh_ds.records.schema import Record
from tests.records.audit import GRADES, grade_accuracy, interval, length_features, near_duplicates, read

FOLDER = Path("mgh_ds/records/sample")


@pytest.fixture(scope="module")
def train() -> list[Record]:
    return read(FOLDER / "train.jsonl")


@pytest.fixture(scope="module")
def held_out() -> list[Record]:
    return read(FOLDER / "held_out.jsonl")


@pytest.fixture(scope="module")
def records(train: list[Record], held_out: list[Record]) -> list[Record]:
    return train + held_out


@pytest.fixture(scope="module")
def cosines(records: list[Record]) -> np.ndarray:
    """Cosine of each negative to its record's positive by all-MiniLM-L6-v2 with mean pooling, [records ·
    4]."""
    encoder = Encoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", pooling="mean")
    positives = np.repeat(
        encoder.encode([record.positive for record in records]),
        [len(record.negatives) for record in records],
        axis=0,
    )
    negatives = encoder.encode([negative.text for record in records for negative in record.negatives])
    return (positives * negatives).sum(axis=1)


def grades_of(records: list[Record]) -> np.ndarray:
    return np.array([GRADES[negative.level or 0] for record in records for negative in record.negatives])


def test_the_sample_is_as_large_and_as_varied_as_it_says(train: list[Record], held_out: list[Record]) -> None:
    everything = train + held_out
    assert len(train) >= 288
    assert len(held_out) >= 72
    assert len({record.source["domain"] for record in everything}) >= 12
    assert {record.source["register"] for record in everything} == {"technical", "plain", "conversational"}
    for part in (train, held_out):
        subtypes = Counter(record.task.subtype for record in part)
        assert set(subtypes) == {"long-long", "long-short", "short-long", "short-short", "sts"}
        assert min(subtypes.values()) >= 9
    assert len({record.id for record in everything}) == len(everything)


def test_every_record_has_one_easy_two_medium_and_one_hard_negative(records: list[Record]) -> None:
    assert {tuple(sorted(n.level or 0 for n in record.negatives)) for record in records} == {(1, 2, 3, 4)}


def test_no_task_stands_in_both_parts(train: list[Record], held_out: list[Record]) -> None:
    parts = [{record.task.instruction.casefold() for record in part} for part in (train, held_out)]
    assert parts[0].isdisjoint(parts[1])


def test_no_text_stands_twice_nor_nearly_so(records: list[Record]) -> None:
    texts = [t for r in records for t in (r.query, r.positive, *(n.text for n in r.negatives))]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert near_duplicates(texts) == []
    assert near_duplicates([*texts, texts[0] + " indeed"]) == [(0, len(texts))], (
        "the search finds a planted one"
    )


def test_similarity_rises_with_the_level(records: list[Record], cosines: np.ndarray) -> None:
    grades = grades_of(records)
    easy, medium, hard = (interval(cosines[grades == grade]) for grade in ("easy", "medium", "hard"))
    assert easy[2] < medium[1]
    assert medium[2] < hard[1]
    shuffled = np.random.default_rng(0).permutation(grades)
    control = [interval(cosines[shuffled == grade]) for grade in ("easy", "medium", "hard")]
    assert control[0][2] > control[2][1], "with permuted labels the intervals overlap"


def test_length_does_not_tell_the_level(records: list[Record], cosines: np.ndarray) -> None:
    chance = 1 / 3
    assert abs(grade_accuracy(records, length_features(records)) - chance) < 0.10
    assert grade_accuracy(records, cosines[:, None]) > chance + 0.25, (
        "the classifier finds a level where there is one"
    )


def test_the_data_card_holds_the_measured_figures(records: list[Record], cosines: np.ndarray) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    grades = grades_of(records)
    for grade in ("easy", "medium", "hard"):
        row = re.search(rf"^\| {grade} \| ([\d.]+) \| ([\d.]+) … ([\d.]+) \|", card, re.MULTILINE)
        assert row, f"the card has no row for {grade}"
        assert [float(x) for x in row.groups()] == pytest.approx(
            interval(cosines[grades == grade]), abs=0.006
        )
