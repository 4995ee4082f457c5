"""The audit's looks at texts and its statistics, against brute force and closed forms."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from mgh_ds.audit.charts import share_chart
from mgh_ds.audit.duplicates import duplicates, find_duplicates, jaccard, link, shingles
from mgh_ds.audit.hardness import order_statistics, ranks
from mgh_ds.audit.languages import identify, languages, same
from mgh_ds.audit.statistics import bootstrap_means, too_few, wilson
from mgh_ds.audit.words import normalised, words
from mgh_ds.common.intervals import Z
from mgh_ds.records.schema import Negative, Record, Task

TASK = Task(kind="asymmetric", subtype="short-short", instruction="Find the answer")
ENGLISH = "The committee meets every Thursday in the old town hall to discuss the budget."
GERMAN = "Der Ausschuss trifft sich jeden Donnerstag im alten Rathaus, um den Haushalt zu besprechen."


def quiet(_check: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def make_record(name: str, query: str, positive: str, language: str = "en") -> Record:
    negatives = [Negative(text=f"nothing of {level}", level=level) for level in (4, 3, 2, 1)]
    return Record(
        id=name,
        task=TASK,
        language=language,
        query=query,
        positive=positive,
        negatives=negatives,
        source={"dataset": "made"},
    )


def numbered(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  STOP, caf\u00e9!", ["don", "t", "stop", "caf\u00e9"]),
        ("ﬁne Straße", ["fine", "strasse"]),
        ("東京は大きい", ["東", "京", "は", "大", "き", "い"]),
        ("ราคา 42", ["ร", "า", "ค", "า", "42"]),
        ("Привет, мир", ["привет", "мир"]),
        ("?!", []),
    ],
)
def test_words_in_many_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_normalised_text_of_no_words_is_the_text() -> None:
    assert normalised(" A,  b! ") == "a b"
    assert normalised("🙂 🙃") == "🙂 🙃"


def test_exact_and_near_duplicates_point_at_the_least_id_and_near_misses_do_not() -> None:
    long = numbered(0, 60)
    records = [
        make_record("m", "what is it", long),
        make_record("c", "What is it?", numbered(100, 60)),  # the query alone, but for its punctuation
        make_record("b", "what is it", long + " more"),  # one 3-gram more
        make_record("z", "another question here", long),  # 58 of 60 3-grams are shared
        make_record("near miss", "what is it", numbered(0, 42)),
        make_record("other", "who knows", numbered(200, 60)),
        make_record("a", "🙂 🙃", "🙂 🙃 🙂"),
        make_record("d", "🙃 🙂", "🙂 🙂 🙂"),
    ]
    assert jaccard(shingles(records[0]), shingles(records[4])) == pytest.approx(41 / 59)
    found = find_duplicates(records, quiet)

    def names(positions: np.ndarray) -> list[str | None]:
        return [records[at].id if at >= 0 else None for at in positions.tolist()]

    assert names(found.query) == ["b", "b", None, None, "b", None, None, None]
    assert names(found.positive) == [None, None, None, "m", None, None, None, None]
    assert names(found.near) == ["b", None, None, "b", None, None, None, None]
    figures = duplicates(found, records)
    assert {name: figures[name] for name in ("same_query", "same_positive", "near", "groups")} == {
        "same_query": 3,
        "same_positive": 1,
        "near": 2,
        "groups": 1,
    }
    assert {example["id"] for example in figures["examples"]} == {"m", "z"}


def test_the_order_of_records_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    records = [
        make_record(f"r{number:03}", numbered(10 * (number % 40), 20), numbered(number % 7, 9))
        for number in range(120)
    ]

    def by_id(order: list[int]) -> dict[str, str | None]:
        chosen = [records[at] for at in order]
        near = find_duplicates(chosen, quiet).near.tolist()
        return {r.id: chosen[at].id if at >= 0 else None for r, at in zip(chosen, near, strict=True)}

    expected = by_id(list(range(120)))
    assert any(expected.values())
    assert by_id(rng.permutation(120).tolist()) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=14), st.data())
def test_links_are_the_components_of_what_is_similar_in_a_bucket(
    bands: list[tuple[int, int]], data: st.DataObject
) -> None:
    count = len(bands)
    pairs = list(itertools.combinations(range(count), 2))
    close = set(data.draw(st.lists(st.sampled_from(pairs), max_size=20))) if pairs else set()
    edges = [(a, b) for a, b in close if any(x == y for x, y in zip(bands[a], bands[b], strict=True))]
    least = list(range(count))
    for _ in range(count):
        for a, b in edges:
            least[a] = least[b] = min(least[a], least[b])
    found = link(np.array(bands, dtype=np.uint64), lambda a, b: (min(a, b), max(a, b)) in close)
    assert found.tolist() == [-1 if root == at else root for at, root in enumerate(least)]


def test_a_wrong_language_is_found_and_doubt_is_no_verdict() -> None:
    records = [
        make_record("right", ENGLISH, ENGLISH),
        make_record("wrong", ENGLISH, ENGLISH, "de"),
        make_record("region", GERMAN, GERMAN, "de-AT"),
        make_record("short", "Guten Tag", "ja", "en"),
        make_record("unknown", ENGLISH, ENGLISH, "tlh"),
    ]
    found = identify(records, quiet)
    assert found.wrong.tolist() == [False, True, False, False, False]
    assert found.judged.tolist() == [True, True, True, False, False]
    assert found.found[:3] == ["en", "en", "de"]
    figures = languages(records, found)
    assert (figures["wrong"], figures["not_judged"]) == (1, 2)
    assert figures["asked"]["de"] == {"records": 1, "wrong": 1}
    assert figures["found_instead"] == [{"asked": "de", "found": "en", "records": 1}]
    assert [example["id"] for example in figures["examples"]] == ["wrong"]


def test_two_codes_for_one_language_are_the_same() -> None:
    assert same("nb-NO") == same("nn") == same("no")
    assert same("zh-Hant-TW") == same("yue")
    assert same("de") != same("nl")


def test_tau_is_kendalls() -> None:
    similarity = np.random.default_rng(1).random((50, 4)).astype(np.float32)
    tau = order_statistics(similarity)[:, 5]
    expected = [kendalltau([1, 2, 3, 4], row).statistic for row in similarity]
    assert tau == pytest.approx(expected)


def test_ranks_are_ranks() -> None:
    similarity = np.float32([[0.3, 0.1, 0.9, 0.2], [1, 2, 3, 4]])
    assert ranks(similarity, np.random.default_rng(0)).tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(2).normal(3, 2, (2000, 1))
    [found] = bootstrap_means(values, np.random.default_rng(0))
    half = Z * values.std() / np.sqrt(len(values))
    assert found["value"] == pytest.approx(values.mean(), abs=1e-6)
    assert found["high"] - found["value"] == pytest.approx(half, rel=0.12)
    assert found["value"] - found["low"] == pytest.approx(half, rel=0.12)


@pytest.mark.parametrize(("hits", "total"), [(0, 30), (3, 40), (30, 30)])
def test_wilsons_bounds_solve_their_equation(hits: int, total: int) -> None:
    """A bound p satisfies (share − p)² = z² p (1 − p) / n."""
    found = wilson(hits, total)
    for bound in (found["low"], found["high"]):
        assert (hits / total - bound) ** 2 == pytest.approx(Z**2 * bound * (1 - bound) / total, abs=1e-6)
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_thirty_are_enough() -> None:
    assert too_few(30) is None
    assert too_few(29)


@pytest.mark.parametrize("hits", [0, 1, 500, 1000])
def test_bars_stay_inside_their_chart(hits: int) -> None:
    chart = share_chart({str(level): wilson(hits, 1000) for level in range(1, 5)}, "Share by level")
    assert len({tick.text for tick in chart.y_ticks}) == len(chart.y_ticks) >= 2
    for bar in chart.bars:
        assert 0 <= bar.high <= bar.y <= bar.low <= chart.bottom
