"""What is kept of retrieval: which queries, which documents, and what each is to its query."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgh_ds.common import files
from mgh_ds.evaluation import retrieved as room
from mgh_ds.evaluation.encoding import Embeddings
from mgh_ds.evaluation.retrieved import FOUND, LONGEST, POSITIVES, QUERIES, retrieved
from mgh_ds.evaluation.run import evaluate_heldout
from mgh_ds.records.schema import Record
from tests.evaluation.conftest import make_record


class Angles:
    """Stands in for an encoder: a text lies at an angle in the plane, so that queries (at 0) find documents
    in the order of their angles; `seen` are the texts that it was given, with their instructions."""

    name, pooling, max_length, use_instructions, prompt = "angles", "mean", 512, True, ""

    def __init__(self, angles: dict[str, float]) -> None:
        self.angles = angles
        self.origin: dict[str, Any] = {}
        self.seen: list[tuple[str | None, str]] = []

    def encode(self, texts: list[str], instruction: str | None = None, **_: Any) -> np.ndarray:
        self.seen += [(instruction, text) for text in texts]
        angles = np.array([self.angles.get(text, 0.0) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def planets() -> list[Record]:
    return [
        make_record(
            "inner", "asymmetric", "A planet?", "Venus", [("Sirius", 4), ("Neptune", 2), ("Sun", None)]
        ),
        make_record("outer", "asymmetric", "A planet?", "Neptune", [("Sirius", 3), ("The Moon", 1)]),
        make_record("star", "asymmetric", "A star?", "Sirius", [("Venus", 3)]),
        make_record("pair", "symmetric", "Pluto", "Ceres", [("Halley", 4)]),
    ]


ANGLES = {"Sirius": 0.1, "Venus": 0.2, "The Moon": 0.3, "Sun": 0.4, "Neptune": 1.5}


def test_documents_have_their_ranks_and_what_they_are_to_the_query(planets: list[Record]) -> None:
    """A positive of another record with the same query is one; of two levels the higher one counts."""
    found = retrieved(Embeddings(Angles(ANGLES)), planets)
    assert found is not None
    assert found["documents"] == 5
    planet, star = found["queries"]
    assert (planet["query"], planet["instruction"]) == ("A planet?", None)
    assert [(each["rank"], each["text"], each["kind"], each["level"]) for each in planet["found"]] == [
        (1, "Sirius", "negative", 4),
        (2, "Venus", "positive", None),
        (3, "The Moon", "negative", 1),
        (4, "Sun", "negative", None),
        (5, "Neptune", "positive", None),
    ]
    assert planet["found"][0]["cosine"] == round(float(np.cos(0.1)), 4)
    assert [(each["kind"], each["level"]) for each in star["found"]] == [
        ("positive", None),
        ("negative", 3),
        ("other", None),
        ("other", None),
        ("other", None),
    ]


def test_positives_are_kept_wherever_they_are_and_long_texts_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DOCUMENTS_AT_ONCE", 3)
    far = "far " * LONGEST
    near = [(f"near {number}", 1) for number in range(FOUND + 3)]
    record = make_record("a", "asymmetric", "Where?", far.strip(), near)
    found = retrieved(Embeddings(Angles({far.strip(): 1.0})), [record])
    assert found is not None
    [query] = found["queries"]
    assert [each["rank"] for each in query["found"]] == [*range(1, FOUND + 1), FOUND + 4]
    assert [each["text"] for each in query["found"][:2]] == ["near 0", "near 1"], "of equals the first first"
    assert query["found"][-1]["text"] == far[:LONGEST] + "…"


def test_queries_are_spread_evenly_whatever_the_encoder(planets: list[Record]) -> None:
    many = [make_record(str(n), "asymmetric", f"query {n}", f"text {n}", []) for n in range(2 * QUERIES + 1)]
    one, other = (retrieved(Embeddings(Angles(angles)), many) for angles in ({}, {"text 3": 0.5}))
    assert one is not None
    assert other is not None
    asked = [query["query"] for query in one["queries"]]
    assert len(set(asked)) == QUERIES
    assert asked[:2] == ["query 0", "query 2"]
    assert [query["query"] for query in other["queries"]] == asked
    assert retrieved(Embeddings(Angles({})), planets[3:]) is None


@pytest.mark.parametrize("instructions", [False, True])
def test_an_evaluation_keeps_it_and_encodes_nothing_for_it(
    planets: list[Record], tmp_path: Path, instructions: bool
) -> None:
    path = tmp_path / "before.json"
    encoder: Any = Angles(ANGLES | {"Halley": 1.0, "Ceres": 0.05})
    options: dict[str, Any] = {"label": "before", "progress": False, "instructions": instructions}
    result = evaluate_heldout(encoder, planets, output=path, **options)
    assert len(encoder.seen) == len(set(encoder.seen)), "each text once, what is kept included"
    found = files.read_json(path)["retrieved"]
    assert found == result.retrieved
    told = planets[0].task.instruction if instructions else None
    assert [query["instruction"] for query in found["queries"]] == [told, told]
    # as in the task: Sirius stands above Venus for the one query, and is right for the other
    assert [query["found"][0]["kind"] for query in found["queries"]] == ["negative", "positive"]


def test_of_many_positives_the_best_are_kept() -> None:
    names = [f"planet {number}" for number in range(50)]
    records = [make_record(name, "asymmetric", "A planet?", name, []) for name in names]
    found = retrieved(Embeddings(Angles({name: 0.01 * place for place, name in enumerate(names)})), records)
    assert found is not None
    assert [each["text"] for each in found["queries"][0]["found"]] == names[:FOUND]
    stars = [make_record(f"s{number}", "asymmetric", "A star?", f"star {number}", []) for number in range(9)]
    angles = {f"star {number}": -0.001 * (number + 1) for number in range(9)}
    angles |= {name: 1 + 0.01 * place for place, name in enumerate(names)}
    found = retrieved(Embeddings(Angles(angles)), [*records, *stars])
    assert found is not None
    planets = found["queries"][0]["found"]
    assert [each["rank"] for each in planets] == [*range(1, FOUND + 1), 10, 11, 12]
    assert [each["text"] for each in planets[FOUND:]] == names[:POSITIVES]
