"""MTEB tasks from local folders: mteb's figures equal sums done here from the same embeddings."""

import hashlib
import json
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from mgh_ds import Encoder
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation import mteb_model
from mgh_ds.evaluation.local_tasks import LAYOUTS, local_tasks
from mgh_ds.evaluation.prompts import NO_PROMPTS
from mgh_ds.evaluation.run import evaluate
from tests.evaluation.conftest import DOCUMENTS, INTENTS, JUDGEMENTS, PAIRS, QUERIES

PAIR = '{"sentence1": "a", "sentence2": "b", "score": 1}\n'
QRELS = "query-id\tcorpus-id\tscore\n"


def scored(encoder: Encoder, data_dir: Path, name: str) -> dict[str, Any]:
    """The score, without the prompts (there are none) and the data that it names."""
    (task,) = local_tasks([name], data_dir)
    score = dict(evaluate(encoder, [task], label="test", progress=False).tasks[name])
    assert score.pop("prompts") == NO_PROMPTS
    assert score.pop("data") == {
        "path": task.metadata.dataset["path"],
        "revision": task.metadata.dataset["revision"],
        "subsets": task.hf_subsets,
        "splits": task.eval_splits,
    }
    return score


def ndcg_at_10(ranking: list[str], relevance: dict[str, int]) -> float:
    """trec_eval's nDCG: linear gain, discount log2(rank + 1)."""
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = [relevance.get(document, 0) for document in ranking[:10]]
    ideal = sorted(relevance.values(), reverse=True)[:10]
    return float(np.dot(gains, discounts[: len(gains)]) / np.dot(ideal, discounts[: len(ideal)]))


@pytest.mark.parametrize(("name", "subset"), [("STS17", "en-en"), ("SICK-R", "default")])
def test_sts_is_spearman_of_cosine_and_gold(minilm: Encoder, data_dir: Path, name: str, subset: str) -> None:
    first, second = (minilm.encode([pair[side] for pair in PAIRS]) for side in (0, 1))
    expected = spearmanr((first * second).sum(axis=1), [pair[2] for pair in PAIRS]).statistic
    score = scored(minilm, data_dir, name)
    assert score == {"metric": "cosine_spearman", "score": pytest.approx(expected), "subsets": [subset]}
    assert 0.5 < expected < 1  # a figure that a wrong pairing would not give


@pytest.mark.parametrize(("name", "subset"), [("SciFact", "default"), ("XQuADRetrieval", "en")])
def test_retrieval_is_ndcg_of_title_and_text(minilm: Encoder, data_dir: Path, name: str, subset: str) -> None:
    documents = minilm.encode([f"{title} {text}".strip() for title, text in DOCUMENTS.values()])
    figures = []
    for query, relevance in JUDGEMENTS.items():
        cosines = documents @ minilm.encode([QUERIES[query]])[0]
        ranking = [list(DOCUMENTS)[i] for i in np.argsort(-cosines)]
        figures.append(ndcg_at_10(ranking, relevance))
    assert scored(minilm, data_dir, name) == {
        "metric": "ndcg_at_10",
        "score": pytest.approx(np.mean(figures), abs=1e-5),  # mteb rounds to five digits
        "subsets": [subset],
    }


def test_a_corpus_is_searched_in_blocks_that_hold_few_scores(
    minilm: Encoder, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same figure; however many queries, a block's scores are bounded."""
    whole, shapes = scored(minilm, data_dir, "SciFact"), []
    similarity = mteb_model.EncoderModel.similarity

    def spy(self: Any, queries: Any, documents: Any) -> Any:
        shapes.append((len(queries), len(documents)))
        return similarity(self, queries, documents)

    monkeypatch.setattr(mteb_model.EncoderModel, "similarity", spy)
    for most, blocks in ((2**27, [7]), (13, [3, 3, 1]), (1, [1] * 7)):
        monkeypatch.setattr(mteb_model, "SCORES_AT_ONCE", most)
        shapes.clear()
        assert scored(minilm, data_dir, "SciFact") == whole
        assert shapes == [(len(JUDGEMENTS), documents) for documents in blocks]


def test_a_task_that_is_scored_again_scores_the_same(minilm: Encoder, data_dir: Path) -> None:
    """Its data are read once, and what it draws, it draws anew."""
    tasks = local_tasks(["STS17", "SciFact", "Banking77Classification"], data_dir)
    clustering = mteb.get_task("TwentyNewsgroupsClustering.v2")
    texts = [f"{text} {number}" for number in range(20) for text, _ in INTENTS["train"]]
    labels = [number % 4 for number in range(len(texts))]
    clustering.dataset = DatasetDict(test=Dataset.from_dict({"sentences": texts, "labels": labels}))
    clustering.data_loaded = True
    clustering.max_fraction_of_documents_to_embed, clustering.max_document_to_embed = None, 100
    first, second = (
        evaluate(minilm, [*tasks, clustering], label="test", progress=False).tasks for _ in range(2)
    )
    assert first == second


def test_classification_is_accuracy_of_logistic_regression(minilm: Encoder, data_dir: Path) -> None:
    # With at most 8 rows a label mteb's ten samples are all the same: the whole training part.
    (train, train_labels), (test, labels) = (zip(*INTENTS[split], strict=True) for split in ("train", "test"))
    probe = LogisticRegression(max_iter=100).fit(minilm.encode(train), train_labels)
    expected = probe.score(minilm.encode(test), labels)
    score = scored(minilm, data_dir, "Banking77Classification")
    assert score == {"metric": "accuracy", "score": pytest.approx(expected), "subsets": ["default"]}


def test_results_carry_the_datas_hash_and_mtebs_full_scores(minilm: Encoder, data_dir: Path) -> None:
    result = evaluate(minilm, local_tasks(["SciFact"], data_dir), label="test", progress=False)
    folder = data_dir / "SciFact"
    content = b"".join((folder / name).read_bytes() for name in LAYOUTS["SciFact"].files)
    details = result.details["SciFact"]
    assert details["dataset_revision"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert {"map_at_100", "recall_at_5", "mrr_at_10"} <= details["scores"]["test"][0].keys()


@pytest.mark.parametrize(
    ("task", "file"),
    [(task, file) for task, layout in LAYOUTS.items() for file in layout.files],
)
def test_missing_file_is_named(data_dir: Path, task: str, file: str) -> None:
    path = data_dir / LAYOUTS[task].folder / file
    path.unlink()
    with pytest.raises(MghError) as error:
        local_tasks(["STS17", task], data_dir)
    assert str(path) in str(error.value)
    assert task in str(error.value)
    assert "--data-dir" in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "STS17-en/test.jsonl",
            '{"sentence1": "a", "sentence2": "b", "score": 1}\nnot json\n',
            "line 2: Row is not valid JSON",
        ),
        ("STS17-en/test.jsonl", '{"sentence1": "a", "score": 1}\n', "line 1: field 'sentence2'"),
        (
            "STS17-en/test.jsonl",
            '{"sentence1": "a", "sentence2": "b", "score": "1"}\n',
            "line 1: field 'score'",
        ),
        ("STS17-en/test.jsonl", "[1, 2]\n", "line 1: Row should be a JSON object (found a list of 2)"),
        ("STS17-en/test.jsonl", "", "holds no rows"),
        ("Banking77/train.jsonl", '{"text": "a", "label": true}\n', "line 1: field 'label'"),
        ("SciFact/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\tmany\n", "line 2"),
        ("SciFact/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\tnowhere\t1\n", "'nowhere' is in no file"),
        ("SciFact/qrels/test.tsv", "query-id\tcorpus-id\tscore\nnobody\td1\t1\n", "'nobody'"),
        ("SciFact/qrels/test.tsv", "q\td\ts\nq1\td1\t1\n", "expected query-id, corpus-id, score"),
        ("SciFact/qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "holds no judgement"),
        (
            "STS17-en/test.jsonl",
            PAIR + '{"sentence1": "a", "sentence2": "b", "score": NaN}\n',
            "line 2: NaN is not valid JSON",
        ),
        (
            "STS17-en/test.jsonl",
            PAIR + '\n{"sentence1": "a", "sentence2": "b", "score": -Infinity}\n',
            "line 3: -Infinity is not valid JSON",
        ),
        (
            "SICK-R/test.jsonl",
            PAIR + '{"sentence1": "a", "sentence2": "b", "score": 1e999}\n',
            "line 2: field 'score' is not a finite number",
        ),
        (
            "SICK-R/test.jsonl",
            PAIR + f'{{"sentence1": "a", "sentence2": "b", "score": 1{400 * "0"}}}\n',
            "line 2: field 'score' is not a finite number",
        ),
        (
            "STS17-en/test.jsonl",
            PAIR + '{"sentence1": "a", "sentence2": "\\ud83d", "score": 2}\n',
            "line 2: field 'sentence2' has a lone surrogate",
        ),
        ("STS17-en/test.jsonl", "[" * 100_000 + "\n", "line 1: JSON is nested too deep"),
        (
            "STS17-en/test.jsonl",
            '{"sentence1": "a", "sentence2": "b", "score": 1, "score": 4}\n',
            "line 1: Key occurs twice",
        ),
        ("STS17-en/test.jsonl", 2 * PAIR, "every score is 1"),
        (
            "SciFact/queries.jsonl",
            2 * '{"_id": "q1", "text": "a"}\n',
            "line 2: _id 'q1' is that of line 1 too",
        ),
        (
            "XQuAD-en/corpus.jsonl",
            2 * '{"_id": "d1", "title": "", "text": "a"}\n',
            "line 2: _id 'd1' is that of line 1 too",
        ),
        (
            "SciFact/queries.jsonl",
            '{"_id": "\\udc00", "text": "a"}\n',
            "line 1: field '_id' has a lone surrogate",
        ),
        (
            "SciFact/qrels/test.tsv",
            QRELS + "q1\td1\t1\nq1\td1\t0\n",
            "line 3: document 'd1' of query 'q1' has",
        ),
        (
            "SciFact/qrels/test.tsv",
            QRELS + "q1\td1\t0\nq1\td2\t0\n",
            "query 'q1' has no document with a score",
        ),
        ("SciFact/qrels/test.tsv", QRELS + "\n" + 'q1\td1\t1\n"q' + 2**18 * "2", "line 4"),
        ("Banking77/train.jsonl", 2 * '{"text": "a", "label": 1}\n', "every label is 1"),
        (
            "Banking77/train.jsonl",
            f'{{"text": "a", "label": {2**63}}}\n',
            "line 1: field 'label' is too large",
        ),
        ("Banking77/test.jsonl", '{"text": "a", "label": 77}\n', "line 1: label 77 is that of no row"),
    ],
)
def test_malformed_row_is_named(data_dir: Path, file: str, content: str, message: str) -> None:
    (data_dir / file).write_text(content)
    task = next(task for task, layout in LAYOUTS.items() if file.startswith(layout.folder + "/"))
    with pytest.raises(MghError) as error:
        local_tasks([task], data_dir)
    assert str(data_dir / file) in str(error.value)
    assert message in str(error.value)


def test_bytes_that_are_not_utf8_are_named(data_dir: Path) -> None:
    path = data_dir / "SICK-R" / "test.jsonl"
    path.write_bytes(b'{"sentence1": "\xff"}\n')
    with pytest.raises(MghError, match=r"SICK-R/test\.jsonl, line 1: Row is not valid UTF-8"):
        local_tasks(["SICK-R"], data_dir)


def test_line_separators_inside_a_text_do_not_end_the_row(data_dir: Path) -> None:
    path = data_dir / "SICK-R" / "test.jsonl"
    row = {"sentence1": "one\u2028two\x0bthree", "sentence2": "b", "score": 1.5}
    path.write_text(
        json.dumps(row, ensure_ascii=False) + "\n" + json.dumps(row | {"score": 2}) + "\n", encoding="utf-8"
    )
    (task,) = local_tasks(["SICK-R"], data_dir)
    rows: Any = task.dataset["default"]["test"]
    assert rows[0] == row


def test_task_without_layout_is_told_of_those_that_have_one(data_dir: Path) -> None:
    with pytest.raises(MghError, match=r"STSBenchmark has no local layout.*SciFact"):
        local_tasks(["STSBenchmark"], data_dir)


def test_data_dir_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MghError, match="nowhere is not a folder"):
        local_tasks(["STS17"], tmp_path / "nowhere")


def test_a_judgement_that_is_not_utf8_is_named(data_dir: Path) -> None:
    path = data_dir / "SciFact" / "qrels" / "test.tsv"
    path.write_bytes(QRELS.encode() + b"q1\td1\t1\nq1\td\xff\t1\n")
    with pytest.raises(MghError, match=r"qrels/test\.tsv, line 3: .* is in no file"):
        local_tasks(["SciFact"], data_dir)


def test_a_judgement_that_is_there_twice_counts_once(data_dir: Path) -> None:
    path = data_dir / "SciFact" / "qrels" / "test.tsv"
    path.write_text("\ufeff" + QRELS + 2 * "q1\td1\t1\n", encoding="utf-8")
    (task,) = local_tasks(["SciFact"], data_dir)
    assert task.dataset["default"]["test"]["relevant_docs"] == {"q1": {"d1": 1}}
