"""Records and files that the tests of this room share."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mgh_ds.records.schema import MAX_NEGATIVES, MAX_SCORE, Record


def record_values(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A valid record as JSON values, different for each number."""
    values = {
        "id": f"record-{number}",
        "task": {
            "kind": "asymmetric",
            "subtype": "short-long",
            "instruction": "Given a question, retrieve its answer",
        },
        "language": "en",
        "query": f"What is fact {number}?",
        "positive": f"Fact {number} is this one, told at some length.",
        "negatives": [
            {"text": f"Nothing to do with it, {number}.", "level": 1},
            {"text": f"A little like fact {number}.", "level": 2},
            {"text": f"Rather like fact {number}, yet not it.", "level": 3},
            {"text": f"Fact {number} is not this one.", "level": 4},
        ],
        "source": {"dataset": "examples", "domain": "facts"},
    }
    return values | changes


def make_records(count: int) -> list[Record]:
    return [Record.model_validate(record_values(number)) for number in range(count)]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(max_size: int = 40) -> st.SearchStrategy[str]:
    """Texts that a record may hold: any Unicode but surrogates and NUL, between quotes that nobody strips."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(characters, min_size=1, max_size=max_size).map(lambda t: f"«{t}»")


@st.composite
def records(draw: st.DrawFn) -> Record:
    subtype = draw(
        st.sampled_from(["long-long", "long-short", "short-long", "short-short", "paraphrase", "sts"])
    )
    positive = draw(texts())
    scores = st.none() | st.floats(-MAX_SCORE, MAX_SCORE)
    negatives = st.fixed_dictionaries(
        {
            "text": texts().filter(lambda text: text != positive),
            "level": st.sampled_from([None, 1, 2, 3, 4]),
            "score": scores,
        }
    )
    return Record.model_validate(
        {
            "id": draw(texts()),
            "task": {
                "kind": "symmetric" if subtype in ("paraphrase", "sts") else "asymmetric",
                "subtype": subtype,
                "instruction": draw(texts()),
            },
            "language": draw(st.sampled_from(["en", "zh-Hant", "pt-BR"])),
            "query": draw(texts()),
            "positive": positive,
            "score": draw(scores),
            "negatives": draw(st.lists(negatives, max_size=MAX_NEGATIVES // 8)),
            "source": {"dataset": draw(texts()), **draw(st.dictionaries(texts(10), texts(10), max_size=3))},
        }
    )
