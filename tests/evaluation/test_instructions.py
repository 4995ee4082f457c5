"""Which instruction a text is read under when mteb asks for its embedding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mteb import get_task
from mteb.models import EncoderProtocol

from mgh_ds import Encoder
from mgh_ds.evaluation.encoding import Embeddings
from mgh_ds.evaluation.local_tasks import local_tasks
from mgh_ds.evaluation.mteb_model import EncoderModel
from mgh_ds.evaluation.run import evaluate
from mgh_ds.records.instructions import instruction_for
from tests.evaluation.conftest import DOCUMENTS, INTENTS, JUDGEMENTS, PAIRS, QUERIES

SCIFACT = instruction_for("SciFact", "query")
STS = instruction_for("STS17", "query")
INTENT = instruction_for("Banking77Classification", "query")


@pytest.fixture
def told(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """The instruction under which each text reached the encoder."""
    seen: dict[str, str | None] = {}
    encode = minilm.encode

    def spy(texts: list[str], instruction: str | None = None, **options: Any) -> np.ndarray:
        seen.update(dict.fromkeys(texts, instruction))
        return encode(texts, instruction=instruction, **options)

    monkeypatch.setattr(minilm, "encode", spy)
    return seen


def run(encoder: Encoder, data_dir: Path, name: str, instructions: bool) -> None:
    evaluate(encoder, local_tasks([name], data_dir), label="t", instructions=instructions, progress=False)


def test_none_unless_asked_for(minilm: Encoder, data_dir: Path, told: dict[str, str | None]) -> None:
    run(minilm, data_dir, "SciFact", instructions=False)
    assert set(told.values()) == {None}


def test_retrieval_tells_queries_only(minilm: Encoder, data_dir: Path, told: dict[str, str | None]) -> None:
    run(minilm, data_dir, "SciFact", instructions=True)
    assert SCIFACT is not None
    assert told == {QUERIES[query]: SCIFACT for query in JUDGEMENTS} | {
        f"{title} {text}".strip(): None for title, text in DOCUMENTS.values()
    }


def test_symmetric_tasks_tell_both_sides(
    minilm: Encoder, data_dir: Path, told: dict[str, str | None]
) -> None:
    run(minilm, data_dir, "STS17", instructions=True)
    assert STS is not None
    assert told == dict.fromkeys([text for pair in PAIRS for text in pair[:2]], STS)


def test_classification_tells_every_text(
    minilm: Encoder, data_dir: Path, told: dict[str, str | None]
) -> None:
    run(minilm, data_dir, "Banking77Classification", instructions=True)
    assert INTENT is not None
    assert told == {text: INTENT for rows in INTENTS.values() for text, _ in rows}


def test_mteb_takes_the_model_for_an_encoder(minilm: Encoder) -> None:
    model = EncoderModel(Embeddings(minilm))
    assert isinstance(model, EncoderProtocol)
    vectors = model.encode([{"text": ["a", "b"]}, {"text": ["c"]}], task_metadata=get_task("SICK-R").metadata)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, minilm.dim)
