"""Graded records from a few rows in the layout of SNLI and MedQuAD, written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation_data
from mgh_ds.common.errors import MghError
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store
from tests.evaluation.conftest import write_jsonl

SCENES = {
    "A man plays a red guitar on a stage.": (
        "A man makes music.",
        "The man is famous.",
        "The man is asleep.",
    ),
    "A man plays a blue guitar in a park.": (
        "A man is outdoors.",
        "He hopes for coins.",
        "He swims in a lake.",
    ),
    "Two dogs run along the beach.": ("Animals are running.", "The dogs are wet.", "The dogs are in a car."),
    "A cook slices onions.": ("Food is being cut.", "The cook is tired.", "The cook is driving."),
}
ANSWERS = {
    ("Gout", "causes"): "Gout is caused by crystals of uric acid in the joints.",
    ("Gout", "symptoms"): "The joints hurt and swell.",
    ("Gout", "treatment"): "Tablets lower the uric acid whose crystals form in the joints.",
    ("Asthma", "causes"): "Asthma is caused by airways that react too much.",
    ("Asthma", "symptoms"): "Breathing becomes hard and noisy.",
    ("Asthma", "treatment"): "An inhaler widens the airways that react too much.",
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    labels = ("entailment", "neutral", "contradiction")
    pairs = [
        {"premise": premise, "hypothesis": text, "label": label}
        for premise, texts in SCENES.items()
        for text, label in zip(texts, labels, strict=True)
    ]
    only_two = [
        {"premise": "A bird sings.", "hypothesis": h, "label": label}
        for h, label in zip("ab", labels[:2], strict=True)
    ]
    folder = tmp_path / "data"
    write_jsonl(folder / "SNLI" / "dev.jsonl", pairs[:6] + only_two)
    write_jsonl(folder / "SNLI" / "test.jsonl", pairs[6:])
    names = {key: f"a{number}" for number, key in enumerate(ANSWERS)}
    questions = [
        {"query": f"{kind} of {focus} ?", "positive_id": name, "negatives": [], "focus": focus, "qtype": kind}
        for (focus, kind), name in names.items()
    ]
    # The same question is answered in another place too: that answer is never a negative.
    questions.append(questions[0] | {"positive_id": "again"})
    corpus = [{"_id": names[key], "title": "", "text": text} for key, text in ANSWERS.items()]
    corpus.append({"_id": "again", "title": "", "text": "Crystals of uric acid in the joints cause gout."})
    write_jsonl(folder / "MedQuAD" / "train.jsonl", questions)
    write_jsonl(folder / "MedQuAD" / "corpus.jsonl", corpus)
    for name in ("STS17-en", "SICK-R"):
        write_jsonl(folder / name / "test.jsonl", [{"sentence1": "One.", "sentence2": "Two.", "score": 1}])
    write_jsonl(folder / "SciFact" / "corpus.jsonl", [{"_id": "1", "title": "T", "text": "Three."}])
    write_jsonl(folder / "SciFact" / "queries.jsonl", [{"_id": "1", "text": "Four."}])
    return folder


def derive(data_dir: Path, output: Path) -> dict[str, dict[str, Record]]:
    """Store name → query → record; of a question asked twice, its first record."""
    ablation_data.main(["--data-dir", str(data_dir), "--output", str(output)])
    found: dict[str, dict[str, Record]] = {}
    for name in ("snli", "medquad"):
        for record in Store.open(output / name):
            found.setdefault(name, {}).setdefault(record.query, record)
    return found


def by_level(record: Record) -> dict[Any, str]:
    return {negative.level: negative.text for negative in record.negatives}


def test_scenes_become_graded_records(data_dir: Path, tmp_path: Path) -> None:
    records = derive(data_dir, tmp_path / "out")["snli"]
    assert list(records) == list(SCENES), "a premise without all three labels is left out"
    for premise, (entailed, neutral, contradicted) in SCENES.items():
        record = records[premise]
        graded = by_level(record)
        assert record.positive == entailed
        assert (graded[3], graded[4]) == (neutral, contradicted)
        others = {texts[1] for other, texts in SCENES.items() if other != premise}
        assert graded[1] in others
        assert graded[2] in others
        assert len({record.query, record.positive, *graded.values()}) == 6
    first, second = list(SCENES)[:2]
    assert by_level(records[first])[2] == SCENES[second][1], "the other guitar is nearest in words"


def test_questions_become_graded_records(data_dir: Path, tmp_path: Path) -> None:
    records = derive(data_dir, tmp_path / "out")["medquad"]
    assert len(records) == 6
    graded = by_level(records["causes of Gout ?"])
    assert graded[4] == ANSWERS["Gout", "treatment"], "same disease, nearest in words to the right answer"
    assert graded[3] == ANSWERS["Gout", "symptoms"]
    assert graded[2] == ANSWERS["Asthma", "causes"], "another disease, the same kind of question"
    assert graded[1] in (ANSWERS["Asthma", "symptoms"], ANSWERS["Asthma", "treatment"])


def test_another_answer_to_the_same_question_is_no_negative(data_dir: Path, tmp_path: Path) -> None:
    derive(data_dir, tmp_path / "out")
    twice = [
        record for record in Store.open(tmp_path / "out" / "medquad") if record.query == "causes of Gout ?"
    ]
    assert len({record.positive for record in twice}) == 2
    for record in twice:
        assert not {record.positive for record in twice} & set(by_level(record).values())


def test_the_same_rows_give_the_same_stores(data_dir: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        derive(data_dir, tmp_path / name)
    for store in ("snli", "medquad"):
        first, second = (Store.open(tmp_path / name / store) for name in ("one", "two"))
        assert first.manifest_hash == second.manifest_hash


@pytest.mark.parametrize("shared", ["a COOK slices onions", "The dogs are in a car!"])
def test_records_that_share_a_text_with_an_evaluation_set_are_left_out(
    data_dir: Path, tmp_path: Path, shared: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(data_dir / "SICK-R" / "test.jsonl", [{"sentence1": "One.", "sentence2": shared, "score": 1}])
    records = derive(data_dir, tmp_path / "out")["snli"]
    assert len(records) == 3
    assert "3 records, 1 left out" in capsys.readouterr().out
    notes = json.loads((tmp_path / "out" / "snli" / "manifest.json").read_text())["notes"]
    assert notes["dropped_for_sharing_a_text_with_an_evaluation_set"] == 1
    texts = {text for r in records.values() for text in (r.query, r.positive, *by_level(r).values())}
    assert ablation_data.plain(shared) not in map(ablation_data.plain, texts)


@pytest.mark.parametrize("missing", ["SNLI/test.jsonl", "MedQuAD/corpus.jsonl", "SciFact/queries.jsonl"])
def test_missing_data_are_named(data_dir: Path, tmp_path: Path, missing: str) -> None:
    (data_dir / missing).unlink()
    with pytest.raises(MghError, match=f"{missing} does not exist: --data-dir must hold SNLI"):
        derive(data_dir, tmp_path / "out")
