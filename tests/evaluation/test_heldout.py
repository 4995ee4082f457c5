"""Held-out tasks through mteb against sums done by hand, and what their evaluation leaves behind."""

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mgh_ds import Encoder
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.levels import level_accuracy
from mgh_ds.evaluation.results import EvaluationResult
from mgh_ds.evaluation.run import evaluate_heldout
from mgh_ds.records.convert import convert
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store
from mgh_ds.scoring import Scoring
from tests.evaluation.conftest import make_record, vector


def evaluated(encoder: Encoder, records: list[Record], **options: Any) -> EvaluationResult:
    return evaluate_heldout(encoder, records, label="test", progress=False, **options)


def cosine(encoder: Encoder, record: Record, document: str, instructions: bool) -> float:
    told = record.task.instruction if instructions else None
    told_document = told if record.task.kind == "symmetric" else None
    return float(vector(encoder, record.query, told) @ vector(encoder, document, told_document))


def rank_of_positive(encoder: Encoder, record: Record, documents: set[str], instructions: bool) -> int:
    own = cosine(encoder, record, record.positive, instructions)
    others = documents - {record.positive}
    return 1 + sum(cosine(encoder, record, text, instructions) > own for text in others)


@pytest.mark.parametrize("instructions", [False, True])
def test_figures_are_those_of_brute_force(minilm: Encoder, records: list[Record], instructions: bool) -> None:
    asymmetric = [record for record in records if record.task.kind == "asymmetric"]
    corpus = {text for r in asymmetric for text in (r.positive, *(n.text for n in r.negatives))}
    ranks = [rank_of_positive(minilm, record, corpus, instructions) for record in asymmetric]
    own_ranks = [
        rank_of_positive(minilm, r, {n.text for n in r.negatives}, instructions)
        for r in records
        if r.negatives
    ]
    gold = {1: 0, 2: 1, 3: 2, 4: 3}
    pairs = [
        (cosine(minilm, record, text, instructions), score)
        for record in records
        if record.task.kind == "symmetric"
        for text, score in [(record.positive, 5), *((n.text, gold[n.level or 0]) for n in record.negatives)]
    ]
    tasks = evaluated(minilm, records, instructions=instructions).tasks
    # mteb rounds retrieval figures to five digits
    ndcg = np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in ranks])
    assert tasks["HeldOutRetrieval"]["score"] == pytest.approx(ndcg, abs=1e-5)
    assert tasks["HeldOutReranking"]["score"] == pytest.approx(np.mean([1 / r for r in own_ranks]), abs=1e-5)
    assert tasks["HeldOutSTS"]["score"] == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    assert min(ranks) < max(ranks)  # neither perfect nor hopeless, so that the figure tells something


def test_instructions_change_the_figures(minilm: Encoder, records: list[Record]) -> None:
    with_them, without = (evaluated(minilm, records, instructions=told) for told in (True, False))
    assert with_them.levels["4"]["margin"] != pytest.approx(without.levels["4"]["margin"], abs=1e-3)
    assert with_them.settings["instructions"] is True


def test_a_document_that_records_share_stands_in_the_corpus_once(records: list[Record]) -> None:
    from mgh_ds.evaluation.heldout import HeldOutRetrieval

    data = HeldOutRetrieval([record for record in records if record.task.kind == "asymmetric"]).data()
    texts = data["corpus"]["text"]
    assert len(texts) == len(set(texts))
    assert len(data["queries"]) == 5
    relevant = {query: next(iter(documents)) for query, documents in data["relevant_docs"].items()}
    text_of = dict(zip(data["corpus"]["id"], texts, strict=True))
    assert text_of[relevant["valleys"]] == "Glaciers carve valleys."


def test_tasks_without_records_are_left_out(minilm: Encoder, records: list[Record]) -> None:
    symmetric = [record for record in records if record.task.kind == "symmetric"]
    assert list(evaluated(minilm, symmetric).tasks) == ["HeldOutReranking", "HeldOutSTS"]
    without_negatives = [record for record in records if not record.negatives]
    assert list(evaluated(minilm, without_negatives).tasks) == ["HeldOutRetrieval"]


def test_file_has_the_layout_that_the_report_reads(
    minilm: Encoder, records: list[Record], tmp_path: Path
) -> None:
    path = tmp_path / "evaluation" / "before.json"
    result = evaluate_heldout(minilm, records, label="before", output=path, progress=False)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["label"] == "before"
    assert content["model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert content["pooling"] == "mean"
    assert {name: task["metric"] for name, task in content["tasks"].items()} == {
        "HeldOutRetrieval": "ndcg_at_10",
        "HeldOutReranking": "map_at_1000",
        "HeldOutSTS": "cosine_spearman",
    }
    assert all(0 <= task["score"] <= 1 for task in content["tasks"].values())
    assert content["levels"] == level_accuracy(minilm, records)
    assert EvaluationResult.read(path) == result


def test_random_states_are_left_as_they_were(minilm: Encoder, records: list[Record]) -> None:
    def seed() -> None:
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed()
    expected = draw()
    seed()
    evaluated(minilm, records[:2])
    assert draw() == expected


def test_runs_quietly_and_restores_what_it_silenced(
    minilm: Encoder, records: list[Record], capfd: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("mteb").level
    evaluated(minilm, records[:2])
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("mteb").level == level
    assert datasets.are_progress_bars_disabled() is False


def test_mtebs_cache_of_results_is_not_used(
    minilm: Encoder, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("mteb's cache was used")

    for name in ("save_to_cache", "load_task_result"):
        monkeypatch.setattr(mteb.ResultCache, name, refuse)
    evaluated(minilm, records[:2])


def test_no_records_is_an_error(minilm: Encoder) -> None:
    with pytest.raises(MghError, match="no held-out records"):
        evaluated(minilm, [])


def test_constant_embeddings_are_an_error_and_leave_no_file(
    minilm: Encoder, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_alike(texts: list[str], **_: Any) -> np.ndarray:
        return np.ones((len(texts), 1), dtype=np.float32)

    monkeypatch.setattr(minilm, "encode", all_alike)
    with pytest.raises(MghError, match="HeldOutSTS: cosine_spearman is not a number"):
        evaluated(minilm, records, output=tmp_path / "after.json")
    assert list(tmp_path.iterdir()) == []


def test_one_record_is_enough(minilm: Encoder) -> None:
    record = make_record("one", "asymmetric", "What makes bread rise?", "Yeast does.", [("The Moon.", 1)])
    assert evaluated(minilm, [record]).tasks["HeldOutRetrieval"]["score"] == 1.0


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text('{"accuracy": 1}')
    with pytest.raises(MghError, match=r"before\.json is not an evaluation result"):
        EvaluationResult.read(path)


class Oracle:
    """Stands in for an encoder that knows which texts answer which query: those are alike, all others not."""

    name, pooling, max_length = "oracle", "mean", 512
    use_instructions, prompt = True, ""

    def __init__(self, records: list[Record]) -> None:
        self.origin: dict[str, Any] = {}
        self.place = {record.query: number for number, record in enumerate(records)}
        self.place |= {record.positive: self.place[record.query] for record in records}
        for number, text in enumerate(sorted({n.text for r in records for n in r.negatives})):
            self.place.setdefault(text, len(records) + number)
        self.size = max(self.place.values()) + 1

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.eye(self.size, dtype=np.float32)[[self.place[text] for text in texts]]


def oracle_scores(records: list[Record]) -> dict[str, float]:
    encoder: Any = Oracle(records)
    return {name: task["score"] for name, task in evaluated(encoder, records).tasks.items()}


def test_every_positive_of_a_query_is_right() -> None:
    """So a perfect encoder gets 1, also where a record has another's positive among its negatives."""
    planets = [
        make_record("inner", "asymmetric", "Name a planet.", "Venus", [("Sirius", 4), ("Neptune", 2)]),
        make_record("giant", "asymmetric", "Name a planet.", "Jupiter", [("Sirius", 4), ("The Moon", 3)]),
        make_record("outer", "asymmetric", "Name a planet.", "Neptune", []),
        make_record("star", "asymmetric", "Name a star.", "Sirius", [("Venus", 3)]),
    ]
    assert oracle_scores(planets) == {"HeldOutRetrieval": 1.0, "HeldOutReranking": 1.0}
    encoder: Any = Oracle(planets)
    levels = level_accuracy(encoder, planets)
    assert {level: (score["accuracy"], score["count"]) for level, score in levels.items()} == {
        "3": (1.0, 2),
        "4": (1.0, 2),
    }


def test_a_perfect_encoder_is_perfect_on_nli(tmp_path: Path) -> None:
    rows = [
        {"premise": f"premise {p}", "hypothesis": f"{label} {p} {n}", "label": label}
        for p in range(3)
        for label in ("entailment", "neutral", "contradiction")
        for n in range(2)
    ]
    path = tmp_path / "nli.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = list(Store.open(convert(path, tmp_path / "store", "nli").path))
    assert len(records) == 6
    assert oracle_scores(records) == {"HeldOutRetrieval": 1.0, "HeldOutReranking": 1.0}


def test_the_same_query_of_another_task_asks_something_else() -> None:
    from mgh_ds.evaluation.heldout import HeldOutRetrieval

    one = make_record("one", "asymmetric", "Photosynthesis", "It turns light into sugar.", [])
    other = one.model_copy(
        update={
            "id": "other",
            "task": one.task.model_copy(update={"instruction": "Name the opposite"}),
            "positive": "Respiration",
        }
    )
    assert list(HeldOutRetrieval([one, other]).data()["relevant_docs"]) == ["one", "other"]


def test_a_pair_that_two_records_grade_counts_once_by_its_higher_grade() -> None:
    from mgh_ds.evaluation.heldout import HeldOutSTS

    rows = HeldOutSTS(
        [
            make_record("a", "symmetric", "Hello", "Hi", [("Bye", 2), ("Good day", 4)]),
            make_record("b", "symmetric", "Hello", "Good day", [("Bye", 3), ("Rain", None)]),
        ]
    ).data()
    pairs = {row["sentence2"]: row["score"] for row in rows}
    assert len(rows) == len(pairs)
    assert pairs == {"Hi": 5.0, "Good day": 5.0, "Bye": 2.0}


def test_similarity_needs_two_grades_and_records_need_a_task(minilm: Encoder) -> None:
    alike = make_record("a", "symmetric", "Hello", "Hi", [("Rain", None)])
    assert list(evaluated(minilm, [alike]).tasks) == ["HeldOutReranking"]
    with pytest.raises(MghError, match="fill no task"):
        evaluated(minilm, [alike.model_copy(update={"negatives": []})])


def test_records_that_fill_no_task_are_refused_before_training() -> None:
    config: Any = SimpleNamespace(
        evaluation=SimpleNamespace(data_dir=None, tasks=[], languages=["eng"]),
        model=SimpleNamespace(use_instructions=False),
    )
    alone = make_record("a", "symmetric", "Hello", "Hi", [])
    with pytest.raises(MghError, match="fill no task"):
        Scoring(config).prepare([alone])
    graded = make_record("b", "symmetric", "Hello", "Hi", [("Bye", 1)])
    assert list(Scoring(config).prepare([alone, graded])) == ["HeldOutReranking", "HeldOutSTS"]
