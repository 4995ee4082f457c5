"""Graded records for the ablation, derived from SNLI and MedQuAD: two stores, all levels in every record.

    python -m benchmarks.ablation_data --data-dir DATA --output runs/ablation-data [--judge FILE]

DATA holds SNLI/{dev,test}.jsonl and MedQuAD/{corpus,train}.jsonl, and the evaluation sets STS17-en, SICK-R
and SciFact: a record that shares a text with one of them is left out. Nothing is graded by a model;
docs/ablation.md says what each level is. The same files give the same stores. `--judge` shows how far
all-MiniLM-L6-v2 agrees with the levels, and writes it to FILE as JSON.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.mixing import mix64
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.schema import Negative, Record, Task
from mgh_ds.records.store import Store, StoreWriter

NEIGHBOURS = 8  # premises looked at, nearest first, for a statement that can serve as level 2
SNLI_LABELS = ("entailment", "neutral", "contradiction")
EVALUATION = {
    "STS17-en/test.jsonl": ("sentence1", "sentence2"),
    "SICK-R/test.jsonl": ("sentence1", "sentence2"),
    "SciFact/queries.jsonl": ("text",),
    "SciFact/corpus.jsonl": ("title", "text"),
}
JUDGED = 400  # records a store


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", required=True, type=Path, metavar="DATA")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--judge",
        type=Path,
        metavar="FILE",
        help="measure the levels with all-MiniLM-L6-v2, into this JSON file",
    )
    options = parser.parse_args(arguments)
    held_back = evaluation_texts(options.data_dir)
    judged = {}
    for name, records in (
        ("snli", snli_records(snli_scenes(options.data_dir))),
        ("medquad", medquad_records(*medquad_rows(options.data_dir))),
    ):
        print(write(options.output / name, records, held_back))
        if options.judge:
            judged[name] = judge(Store.open(options.output / name))
            for level, score in judged[name]["levels"].items():
                print(
                    f"  level {level}: positive above the negative in {score['accuracy']:.1%}, "
                    f"by {score['margin']:.3f} in cosine on average"
                )
    if options.judge:
        files.write_json(options.judge, judged)


def write(path: Path, records: Iterable[Record], held_back: set[str]) -> str:
    """Writes the records that share no text with the evaluation sets; returns how many, in a line."""
    kept = dropped = 0
    with StoreWriter(path) as writer:
        for record in records:
            texts = [record.query, record.positive, *(negative.text for negative in record.negatives)]
            if held_back.isdisjoint(map(plain, texts)):
                writer.add(record)
                kept += 1
            else:
                dropped += 1
        writer.notes |= {"records": kept, "dropped_for_sharing_a_text_with_an_evaluation_set": dropped}
    return f"{path}: {kept} records, {dropped} left out because an evaluation set has one of their texts"


def plain(text: str) -> str:
    """A text by its words alone: what counts as the same text."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def evaluation_texts(data_dir: Path) -> set[str]:
    """The texts of the evaluation sets, `plain`."""
    found = {
        plain(row[key]) for name, keys in EVALUATION.items() for row in rows(data_dir / name) for key in keys
    }
    return found - {""}


def snli_scenes(data_dir: Path) -> dict[str, dict[str, str]]:
    """Premise → label → its first hypothesis, of the premises that have all three labels."""
    scenes: dict[str, dict[str, str]] = defaultdict(dict)
    for name in ("dev", "test"):
        for row in rows(data_dir / "SNLI" / f"{name}.jsonl"):
            scenes[row["premise"]].setdefault(row["label"], row["hypothesis"])
    return {premise: scene for premise, scene in scenes.items() if len(scene) == len(SNLI_LABELS)}


def snli_records(scenes: dict[str, dict[str, str]]) -> Iterator[Record]:
    """Premise → what it entails. Level 4: what contradicts it; 3: what may or may not be true of it; 2 and 1:
    what may or may not be true of another premise, the nearest in words and one drawn at random."""
    premises = list(scenes)
    open_statements = [scene["neutral"] for scene in scenes.values()]
    vectors = word_vectors(premises)
    for number, (premise, scene) in enumerate(scenes.items()):
        own = [premise, *scene.values()]
        taken = set(map(plain, own))
        alike = len(taken) < len(own)
        near = [i for i in nearest(vectors, number, range(len(premises)))[: NEIGHBOURS + 1] if i != number]
        medium = first_new((open_statements[i] for i in near), taken)
        easy = first_new((open_statements[i] for i in draws(premise, len(premises)) if i != number), taken)
        graded = [(easy, 1), (medium, 2), (scene["neutral"], 3), (scene["contradiction"], 4)]
        if medium and not alike:
            yield make_record("SNLI", f"snli-{number}", "short-short", premise, scene["entailment"], graded)


def medquad_rows(data_dir: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The questions, and answer id → text."""
    folder = data_dir / "MedQuAD"
    return list(rows(folder / "train.jsonl")), {
        row["_id"]: row["text"] for row in rows(folder / "corpus.jsonl")
    }


def medquad_records(questions: list[dict[str, Any]], answers: dict[str, str]) -> Iterator[Record]:
    """Question → its answer. Level 4 and 3: of the answers on the same disease to other kinds of question,
    the one nearest to the right answer in words, and the farthest; 2: an answer on another disease to the
    same kind of question; 1: on another disease to another kind, both drawn at random."""
    disease = [plain(row["focus"]) for row in questions]
    kind = [row["qtype"] for row in questions]
    text = [answers[row["positive_id"]] for row in questions]
    right = defaultdict(set)  # a question may be asked, and answered, in two places
    for row, answer in zip(questions, text, strict=True):
        right[plain(row["query"])].add(plain(answer))
    vectors = word_vectors(text)
    for number, row in enumerate(questions):
        taken = right[plain(row["query"])] | {plain(row["query"])}
        siblings = [
            i for i, name in enumerate(disease) if name == disease[number] and kind[i] != kind[number]
        ]
        ranked = nearest(vectors, number, siblings)
        hard = first_new((text[i] for i in ranked), taken)
        medium = first_new((text[i] for i in reversed(ranked)), taken)
        others = [
            i for i in draws(f"{number} {row['query']}", len(questions)) if disease[i] != disease[number]
        ]
        same_kind = first_new((text[i] for i in others if kind[i] == kind[number]), taken)
        easy = first_new((text[i] for i in others if kind[i] != kind[number]), taken)
        graded = [(easy, 1), (same_kind, 2), (medium, 3), (hard, 4)]
        if hard and medium:
            yield make_record(
                "MedQuAD", f"medquad-{number}", "short-long", row["query"], text[number], graded
            )


def make_record(
    dataset: str, name: str, subtype: Any, query: str, positive: str, graded: list[tuple[str, int]]
) -> Record:
    instruction = INSTRUCTIONS[dataset]
    return Record(
        id=name,
        task=Task(kind="asymmetric", subtype=subtype, instruction=instruction.text),
        language="en",
        query=query,
        positive=positive,
        negatives=[Negative(text=text, level=level) for text, level in graded],
        source={"dataset": dataset},
    )


def first_new(texts: Iterable[str], taken: set[str]) -> str:
    """The first text whose words are not `taken`, which they are from now on; "" if there is none."""
    for text in texts:
        if plain(text) and plain(text) not in taken:
            taken.add(plain(text))
            return text
    return ""


def draws(key: str, count: int) -> list[int]:
    """The numbers below `count` in an order that depends on `key` alone."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    return np.argsort(mix64(np.arange(count), seed), kind="stable").tolist()


def word_vectors(texts: Sequence[str]) -> Any:
    """TF-IDF vectors of unit length, sparse [n, words]."""
    return TfidfVectorizer(sublinear_tf=True, stop_words="english").fit_transform(texts)


def nearest(vectors: Any, number: int, among: Sequence[int]) -> list[int]:
    """The rows `among`, those with the greatest cosine to row `number` first."""
    closeness = (vectors[list(among)] @ vectors[number].T).toarray().ravel()
    return [among[place] for place in np.argsort(-closeness, kind="stable")]


def judge(store: Store) -> dict[str, Any]:
    """How far all-MiniLM-L6-v2 sets the positive above each level's negatives, over `JUDGED` records."""
    from mgh_ds.evaluation.levels import level_accuracy
    from mgh_ds.model.encoder import Encoder
    from mgh_ds.model.weights import MINILM

    records = store.rows(np.linspace(0, len(store) - 1, min(JUDGED, len(store)), dtype=np.int64))
    scores = level_accuracy(Encoder.from_pretrained(MINILM, "mean"), records)
    return {"records": len(records), "levels": scores}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file."""
    if not path.is_file():
        raise MghError(
            f"{path} does not exist: --data-dir must hold SNLI, MedQuAD, STS17-en, SICK-R and SciFact"
        )
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    try:
        main()
    except MghError as error:
        sys.exit(f"error: {error}")
