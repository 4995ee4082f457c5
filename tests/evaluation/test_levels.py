"""Level accuracy and margin against sums written out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgh_ds import Encoder
from mgh_ds.evaluation.levels import GradedMargin, graded_margins, level_accuracy, order
from mgh_ds.records.schema import Record
from tests.evaluation.conftest import make_record, vector


def brute_force(
    encoder: Any, records: list[Record], instructions: bool = False
) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {}
    right = {(record.task.instruction, record.query, record.positive) for record in records}
    for record in records:
        told = record.task.instruction if instructions else None
        told_document = told if record.task.kind == "symmetric" else None
        query = vector(encoder, record.query, told)
        positive = vector(encoder, record.positive, told_document)
        for negative in record.negatives:
            known = (record.task.instruction, record.query, negative.text) in right
            if negative.level is not None and not known:
                other = vector(encoder, negative.text, told_document)
                found.setdefault(str(negative.level), []).append(query @ positive - query @ other)
    return {
        level: {
            "accuracy": sum(margin > 0 for margin in margins) / len(margins),
            "margin": sum(margins) / len(margins),
            "count": len(margins),
        }
        for level, margins in found.items()
    }


@pytest.mark.parametrize("instructions", [False, True])
def test_equals_brute_force_on_minilm(minilm: Encoder, records: list[Record], instructions: bool) -> None:
    result = level_accuracy(minilm, records, instructions=instructions)
    expected = brute_force(minilm, records, instructions)
    assert list(result) == ["1", "2", "3", "4"]
    assert [score["count"] for score in result.values()] == [5, 4, 4, 4]
    for level, score in result.items():
        assert score == pytest.approx(expected[level], abs=1e-6)


class Directions:
    """Stands in for an encoder: a text such as "3" is the unit vector at 3 tenths of a radian."""

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        angles = np.array([float(text) / 10 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


ANGLES = st.integers(0, 15)
NEGATIVES = st.lists(st.tuples(ANGLES, st.sampled_from([1, 2, 3, 4, None])), max_size=5)


Row = tuple[int, int, list[tuple[int, int | None]]]


@given(st.lists(st.tuples(ANGLES, ANGLES, NEGATIVES), min_size=1, max_size=6))
def test_equals_brute_force_on_any_geometry(rows: list[Row]) -> None:
    made = []
    for number, (query, positive, negatives) in enumerate(rows):
        chosen = [
            (str(angle), level)
            for angle, level in negatives
            if abs(angle - query) != abs(positive - query)  # rounding would decide a tie
        ]
        made.append(make_record(str(number), "asymmetric", str(query), str(positive), chosen))
    encoder: Any = Directions()
    result, expected = level_accuracy(encoder, made), brute_force(encoder, made)
    assert result.keys() == expected.keys()
    for level, score in result.items():
        assert score == pytest.approx(expected[level], abs=1e-6)


def test_a_tie_is_not_a_success(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_alike(texts: list[str], **_: Any) -> np.ndarray:
        return np.ones((len(texts), 1), dtype=np.float32)

    monkeypatch.setattr(minilm, "encode", all_alike)
    record = make_record("tie", "asymmetric", "query", "positive", [("negative", 2)])
    assert level_accuracy(minilm, [record]) == {"2": {"accuracy": 0.0, "margin": 0.0, "count": 1}}


def test_ungraded_negatives_have_no_level(minilm: Encoder) -> None:
    assert level_accuracy(minilm, [make_record("a", "asymmetric", "q", "p", [("n", None)])]) == {}


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(-9, 9)), min_size=1, max_size=6), min_size=1)
)
def test_the_order_is_kendalls(lists: list[list[tuple[int, int]]]) -> None:
    margins, taus = [], []
    for record, negatives in enumerate(lists):
        margins += [GradedMargin(record, level, margin / 10) for level, margin in negatives]
        documents = [(5, 0), *negatives]
        signs = [
            (second > first) - (second < first)
            for level, first in documents
            for other, second in documents
            if level > other
        ]
        taus.append(sum(signs) / len(signs))
    assert order(margins) == pytest.approx(sum(taus) / len(taus))
    assert order([GradedMargin(0, level, 5.0 - level) for level in (4, 2, 1, 3)]) == 1
    assert order([GradedMargin(0, level, level - 5.0) for level in (4, 2, 1, 3)]) == -1


def test_margins_know_their_record_and_level() -> None:
    encoder: Any = Directions()
    made = [
        make_record("0", "asymmetric", "3", "4", [("5", 2)]),
        make_record("1", "asymmetric", "1", "2", [("1", 4)]),
    ]
    found = graded_margins(encoder, made)
    assert [(one.record, one.level) for one in found] == [(0, 2), (1, 4)]
    assert [one.margin for one in found] == pytest.approx(
        [np.cos(0.1) - np.cos(0.2), np.cos(0.1) - 1], abs=1e-6
    )
