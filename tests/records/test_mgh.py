"""The bundled MGH records against their data card, by an embedder that was not trained on them."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mgh_ds import Encoder
from mgh_ds.records.schema import Record
from mgh_ds.records.subtypes import SUBTYPES
from tests.records.audit import interval, read

FOLDER = Path("mgh_ds/records/mgh")
LEVELS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def train() -> list[Record]:
    return read(FOLDER / "train.jsonl")


@pytest.fixture(scope="module")
def held_out() -> list[Record]:
    return read(FOLDER / "held_out.jsonl")


def test_the_records_are_as_many_and_as_varied_as_the_card_says(
    train: list[Record], held_out: list[Record]
) -> None:
    assert (len(train), len(held_out)) == (806, 132)
    tasks = [Counter(record.task.instruction.casefold() for record in part) for part in (train, held_out)]
    assert [len(part) for part in tasks] == [403, 66]
    assert {count for part in tasks for count in part.values()} == {2}
    assert tasks[0].keys().isdisjoint(tasks[1])
    for part in (train, held_out):
        assert {record.task.subtype for record in part} == set(SUBTYPES)
    records = train + held_out
    assert len({record.id for record in records}) == len(records)
    assert {tuple(sorted(n.level or 0 for n in record.negatives)) for record in records} == {LEVELS}


def test_the_data_card_holds_the_measured_figures(held_out: list[Record]) -> None:
    encoder = Encoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", pooling="mean")
    negatives = [negative for record in held_out for negative in record.negatives]
    levels = np.array([negative.level for negative in negatives])
    vectors = encoder.encode([negative.text for negative in negatives])
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for column, texts in enumerate(
        ([record.query for record in held_out], [record.positive for record in held_out])
    ):
        cosines = (np.repeat(encoder.encode(texts), len(LEVELS), axis=0) * vectors).sum(axis=1)
        found = [interval(cosines[levels == level]) for level in LEVELS]
        assert all(found[i][2] < found[i + 1][1] for i in range(3)), "a level's interval lies below the next"
        for level, figures in zip(LEVELS, found, strict=True):
            row = re.search(rf"^\| {level} \|(.*)$", card, re.MULTILINE)
            assert row, f"the card has no row for level {level}"
            said = [float(x) for x in re.findall(r"0\.\d+", row[1].split("|")[column])]
            assert said == pytest.approx(figures, abs=0.006)
