"""Measurements on graded records: cosines by level with bootstrap intervals, near duplicates, and what length
gives away."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasketch import MinHash, MinHashLSH
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mgh_ds.records.schema import Record

GRADES = {1: "easy", 2: "medium", 3: "medium", 4: "hard"}


def read(path: Path) -> list[Record]:
    """The records of an MGH JSONL file."""
    return [Record.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Mean and its 95 % percentile bootstrap interval."""
    random = np.random.default_rng(0)
    means = values[random.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def near_duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[tuple[int, int]]:
    """Pairs of texts whose sets of word 3-grams have a Jaccard similarity above the threshold; MinHash finds,
    sets confirm."""
    shingles = [_shingles(text) for text in texts]
    index = MinHashLSH(threshold=threshold, num_perm=64)
    pairs = []
    for number, words in enumerate(shingles):
        sketch = MinHash(num_perm=64)
        sketch.update_batch([word.encode() for word in words])
        for other in index.query(sketch):
            if len(words & shingles[other]) / len(words | shingles[other]) > threshold:
                pairs.append((other, number))
        index.insert(number, sketch)
    return pairs


def _shingles(text: str) -> set[str]:
    words = ["^", "^", *"".join(c if c.isalnum() else " " for c in text.lower()).split(), "$", "$"]
    return {" ".join(part) for part in zip(words, words[1:], words[2:], strict=False)}


def length_features(records: Sequence[Record]) -> np.ndarray:
    """What length alone says of each negative, float64 [records · 4, 4], in the order of the records'
    negatives."""
    rows = []
    for record, negative in _negatives(records):
        characters, words = len(negative.text), len(negative.text.split())
        rows.append(
            [
                np.log(characters),
                np.log(words),
                np.log(characters / len(record.positive)),
                np.log(characters / len(record.query)),
            ]
        )
    return np.array(rows)


def grade_accuracy(records: Sequence[Record], features: np.ndarray) -> float:
    """Best cross-validated balanced accuracy of telling easy, medium and hard apart; chance is 1/3.

    A linear and a non-linear classifier, records never split between folds.
    """
    grades = [GRADES[negative.level or 0] for _, negative in _negatives(records)]
    groups = [number for number, record in enumerate(records) for _ in record.negatives]
    classifiers = [
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500)),
        DecisionTreeClassifier(max_depth=5, class_weight="balanced", min_samples_leaf=20, random_state=0),
    ]
    folds = GroupKFold(n_splits=5)
    return max(
        balanced_accuracy_score(
            grades, cross_val_predict(classifier, features, grades, groups=groups, cv=folds)
        )
        for classifier in classifiers
    )


def _negatives(records: Sequence[Record]) -> list:
    return list(
        itertools.chain.from_iterable(
            ((record, negative) for negative in record.negatives) for record in records
        )
    )
