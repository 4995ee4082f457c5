"""The labelled set, and agreement with it against figures worked out by hand."""

from collections import Counter

import pytest

from mgh_ds.audit.agreement import agreement, labelled_set


def test_the_labelled_set_is_balanced_and_speaks_many_languages() -> None:
    items = labelled_set()
    assert len({one.id for one in items}) == len({one.negative for one in items}) == len(items)
    assert 50 <= len(items) <= 60
    assert sum(one.false_negative for one in items) * 2 == len(items)
    languages = Counter(one.language for one in items)
    assert len(languages) >= 8
    assert languages["en"] < len(items) / 2
    kinds = Counter((one.kind, one.false_negative) for one in items)
    assert min(kinds.values()) >= 5
    assert all(one.id.startswith(f"{one.language}-") for one in items)
    assert all(len({one.query, one.positive, one.negative}) == 3 for one in items)
    assert all(one.why for one in items)


def test_words_shared_with_the_query_do_not_give_the_label_away() -> None:
    """True negatives share more of the query's words than false ones: whoever counts words is wrong."""

    def shared(text: str, query: str) -> float:
        words = set(query.lower().split())
        return len(words & set(text.lower().split())) / len(words)

    spaced = [one for one in labelled_set() if one.language not in ("zh", "ja")]
    means = {
        label: sum(shared(one.negative, one.query) for one in spaced if one.false_negative is label)
        / sum(one.false_negative is label for one in spaced)
        for label in (False, True)
    }
    assert means[False] > 2 * means[True]


@pytest.mark.parametrize(
    ("found", "labels", "expected"),
    [
        # Of four judged, two are right: chance is 1/2, and so is the accuracy.
        ([True, True, False, False, None], [True, False, True, False, True], (4, 0.5, 0.5, 0.5, 0.0)),
        ([True, False, True, False], [True, False, True, False], (4, 1.0, 1.0, 1.0, 1.0)),
        ([False, True], [True, False], (2, 0.0, 0.0, 0.0, -1.0)),
        # One of three false ones is found: chance is (1 · 3 + 4 · 2) / 25 = 0.44.
        (
            [True, False, False, False, False],
            [True, True, True, False, False],
            (5, 0.6, 1.0, 1 / 3, (0.6 - 0.44) / 0.56),
        ),
        ([False, False], [False, False], (2, 1.0, None, None, None)),
        ([None], [True], (0, None, None, None, None)),
        # Right wherever it spoke, and silent on one in three: nobody knows how far it agrees.
        ([True, False, None], [True, False, True], (2, 1.0, 1.0, 1.0, None)),
    ],
)
def test_agreement_by_hand(
    found: list[bool | None], labels: list[bool], expected: tuple[float | None, ...]
) -> None:
    made = agreement(found, labels)
    accuracy = made["accuracy"] and made["accuracy"]["value"]
    assert made["items"] == len(labels)
    values = (made["judged"], accuracy, made["precision"], made["recall"], made["kappa"])
    assert values == pytest.approx(expected, abs=1e-6)
