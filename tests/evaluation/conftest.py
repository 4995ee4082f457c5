"""The real MiniLM encoder, small data folders in the local layout, and a network that must not be used."""

import functools
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgh_ds import Encoder
from mgh_ds.records.schema import Negative, Record, Task

PAIRS = [
    ("A man is playing a guitar.", "Someone plays the guitar.", 4.8),
    ("A woman slices an onion.", "A woman is cutting an onion.", 4.6),
    ("Two dogs run on the beach.", "Two dogs are running along the shore.", 4.4),
    ("A child eats an apple.", "A boy is eating fruit.", 3.4),
    ("A man rides a horse.", "A man is riding a bicycle.", 1.8),
    ("The cat sleeps on the sofa.", "A dog sleeps in the garden.", 1.6),
    ("A plane lands at the airport.", "A train arrives at the station.", 1.4),
    ("Children play football.", "A chef cooks soup.", 0.2),
    ("Rain falls on the city.", "The committee approved the budget.", 0.0),
    ("The bridge was built in 1932.", "He forgot his umbrella.", 0.4),
]
DOCUMENTS = {
    "d1": ("Guitars", "A guitar has six strings that are plucked or strummed."),
    "d2": ("", "Onions make the eyes water because of a sulphur compound."),
    "d3": ("Dogs", "A dog needs a long walk each day."),
    "d4": ("Airports", "A runway must be long enough for the heaviest plane."),
    "d5": ("Pianos", "A piano has eighty-eight keys and over two hundred strings."),
    "d6": ("", "Wolves hunt in packs and are the ancestors of dogs."),
    "d7": ("Photosynthesis", "This is described at length in the next chapter."),
}
QUERIES = {
    "q1": "Which instrument has strings?",
    "q2": "Why do onions make you cry?",
    "q3": "What do dogs need?",
    "q4": "How do plants live on light?",  # found by its document's title alone
    "q5": "This query is in no judgement.",
}
JUDGEMENTS = {"q1": {"d1": 2, "d5": 1}, "q2": {"d2": 1}, "q3": {"d3": 1, "d6": 1}, "q4": {"d7": 1}}
INTENTS = {
    "train": [
        ("I lost my card", 0),
        ("My card has been stolen", 0),
        ("Where is my new card?", 0),
        ("What is the exchange rate?", 1),
        ("How many euros do I get for a dollar?", 1),
        ("Do you charge for changing money?", 1),
        ("I forgot my password", 2),
        ("I cannot log in", 2),
        ("Reset my passcode please", 2),
    ],
    "test": [
        ("Somebody took my card", 0),
        ("My card is gone", 0),
        ("Rate for changing dollars to yen?", 1),
        ("What does it cost to exchange currency?", 1),
        ("The app does not let me in", 2),
        ("Money and cards and logging in", 1),
    ],
}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """One small folder for every task that has a local layout."""
    write_data(tmp_path / "data")
    return tmp_path / "data"


def write_data(folder: Path) -> None:
    for name in ("STS17-en", "SICK-R"):
        rows = [{"sentence1": a, "sentence2": b, "score": score, "source": "x"} for a, b, score in PAIRS]
        write_jsonl(folder / name / "test.jsonl", rows)
    for name in ("SciFact", "XQuAD-en"):
        corpus = [{"_id": key, "title": title, "text": text} for key, (title, text) in DOCUMENTS.items()]
        write_jsonl(folder / name / "corpus.jsonl", corpus)
        write_jsonl(
            folder / name / "queries.jsonl", [{"_id": k, "text": text} for k, text in QUERIES.items()]
        )
        lines = [f"{query}\t{d}\t{score}" for query, docs in JUDGEMENTS.items() for d, score in docs.items()]
        (folder / name / "qrels").mkdir()
        (folder / name / "qrels" / "test.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        )
    for split, rows in INTENTS.items():
        write_jsonl(
            folder / "Banking77" / f"{split}.jsonl", [{"text": t, "label": label} for t, label in rows]
        )


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    return Encoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", "mean", device="cpu")


@functools.cache
def vector(encoder: Any, text: str, instruction: str | None = None) -> np.ndarray:
    """One text's embedding, as float64."""
    return encoder.encode([text], instruction=instruction)[0].astype(np.float64)


def make_record(
    name: str, kind: str, query: str, positive: str, negatives: list[tuple[str, int | None]]
) -> Record:
    return Record(
        id=name,
        task=Task(
            kind=kind,
            subtype="sts" if kind == "symmetric" else "short-short",
            instruction=f"Find what goes with a {kind} query",
        ),
        language="en",
        query=query,
        positive=positive,
        negatives=[Negative(text=text, level=level) for text, level in negatives],
        source={"dataset": "test"},
    )


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Asymmetric and symmetric records; two share a document, one has an ungraded negative, one has none."""
    shared = "Yeast makes bread dough rise."
    return [
        make_record(
            "bread",
            "asymmetric",
            "What makes bread rise?",
            shared,
            [
                ("Glaciers carve valleys.", 1),
                ("Bread is sold by weight.", 2),
                ("Flour is ground from wheat.", 3),
                ("What makes bread rise is a common question.", 4),
            ],
        ),
        make_record(
            "valleys",
            "asymmetric",
            "What carves valleys?",
            "Glaciers carve valleys.",
            [(shared, 1), ("Valleys are often farmed.", 2), ("Maps show what valleys are called.", 4)],
        ),
        make_record(
            "tides",
            "asymmetric",
            "Why are there tides?",
            "The Moon pulls on the sea.",
            [("Ships wait for the tide.", None), ("The Moon has no air.", 3)],
        ),
        make_record(
            "dough",  # another record's document comes closer than its own
            "asymmetric",
            "Why does bread dough rise?",
            "Bubbles of carbon dioxide lift it.",
            [("Stamps were licked once.", 1)],
        ),
        make_record("alone", "asymmetric", "How hot is the Sun?", "Its surface is at 5,800 kelvin.", []),
        make_record(
            "guitar",
            "symmetric",
            "A man plays the guitar.",
            "Someone is playing a guitar.",
            [
                ("The tax is due in May.", 1),
                ("A man listens to music.", 2),
                ("A man repairs a guitar.", 3),
                ("A man plays the piano.", 4),
            ],
        ),
        make_record(
            "dogs",
            "symmetric",
            "Two dogs run along the beach.",
            "A pair of dogs is running on the shore.",
            [("Coal is mined here.", 1), ("A cat sleeps.", 2), ("Two dogs sleep.", 3), ("Two cats run.", 4)],
        ),
    ]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Makes connections and name look-ups fail; tells what was tried, lest a library swallow the error."""
    tried: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        tried.append(repr(arguments[-1]))
        raise OSError("the network is switched off")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return lambda: tried
