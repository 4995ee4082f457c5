"""Which instruction a text is read under when mteb asks for its embedding."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mteb import get_task
from mteb.models import EncoderProtocol

from mgh_ds import Encoder
from mgh_ds.evaluation.encoding import Embeddings
from mgh_ds.evaluation.local_tasks import local_tasks
from mgh_ds.evaluation.mteb_model import EncoderModel
from mgh_ds.evaluation.prompts import NO_PROMPTS, prompts_of
from mgh_ds.evaluation.run import evaluate
from mgh_ds.evaluation.tables import results_markdown
from mgh_ds.records.instructions import INSTRUCTIONS, instruction_for
from mgh_ds.records.schema import Record
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


def test_a_task_that_the_registry_does_not_know_is_read_under_mtebs_own_prompt(
    minilm: Encoder, data_dir: Path, told: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(INSTRUCTIONS, "SciFact")
    result = evaluate(
        minilm, local_tasks(["SciFact"], data_dir), label="t", instructions=True, progress=False
    )
    prompt = get_task("SciFact").metadata.prompt["query"]
    assert {told[QUERIES[query]] for query in JUDGEMENTS} == {prompt}
    assert {told[f"{title} {text}".strip()] for title, text in DOCUMENTS.values()} == {None}
    assert result.tasks["SciFact"]["prompts"] == {"source": "mteb", "query": prompt, "document": None}


def test_the_result_says_task_by_task_which_prompt_was_used(data_dir: Path, records: list[Record]) -> None:
    encoder = Encoder.from_pretrained("tiny-random/bert", device="cpu")
    for instructions in (False, True):
        result = evaluate(
            encoder,
            local_tasks(["STS17", "SciFact"], data_dir),
            records=records,
            label="t",
            instructions=instructions,
            progress=False,
        )
        found = {name: task["prompts"] for name, task in result.tasks.items()}
        if not instructions:
            assert all(prompts == NO_PROMPTS for prompts in found.values())
            assert "Prompts:" not in results_markdown(result)
    assert found["STS17"] == {"source": "registry", "query": STS, "document": STS}
    assert found["SciFact"] == {"source": "registry", "query": SCIFACT, "document": None}
    assert found["HeldOutRetrieval"]["source"] == "records"
    lines = results_markdown(result).splitlines()
    assert f"- STS17 (from mgh-ds): queries “{STS}”, documents “{STS}”" in lines
    assert f"- SciFact (from mgh-ds): queries “{SCIFACT}”, documents none" in lines
    assert "- HeldOutSTS: each record's own" in lines


@pytest.mark.parametrize(
    ("prompt", "of_its_kind", "expected"),
    [
        ({"query": "Find it."}, "Retrieve.", ("Find it.", None)),
        ({"query": "Find it.", "document": "Be found."}, "Retrieve.", ("Find it.", "Be found.")),
        ("Find it.", "Retrieve.", ("Find it.", None)),
        (None, "Retrieve.", ("Retrieve.", None)),
        ("", None, (None, None)),
    ],
)
def test_where_mtebs_prompt_comes_from(
    prompt: Any, of_its_kind: str | None, expected: tuple[str | None, str | None]
) -> None:
    task = SimpleNamespace(metadata=SimpleNamespace(name="Unheard", prompt=prompt))
    if of_its_kind:
        task.abstask_prompt = of_its_kind
    found = prompts_of(task)
    assert (found["query"], found["document"]) == expected
    assert found["source"] == ("mteb" if any(expected) else "none")


@pytest.mark.parametrize(
    "name",
    [
        "ArguAna",
        "AskUbuntuDupQuestions",
        "ImdbClassification",
        "SprintDuplicateQuestions",
        "SummEvalSummarization.v2",
        "TwentyNewsgroupsClustering.v2",
    ],
)
def test_tasks_of_every_kind_have_a_prompt_of_mtebs(name: str) -> None:
    found = prompts_of(get_task(name))
    assert found["source"] == "mteb"
    assert found["query"]
    assert found["document"] is None
