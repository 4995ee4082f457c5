"""The shortcut probe: can the level be told from the negative's text alone?

If it can, a model may learn how the generator writes a hard negative instead of what makes it wrong. Folds
are grouped by record; the control learns and predicts levels that were permuted within each record.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from mgh_ds.audit.inputs import Floats, Int64s, Progress, graded_negatives
from mgh_ds.audit.statistics import Estimate, bootstrap_means, too_few
from mgh_ds.audit.words import normalised, words
from mgh_ds.records.levels import LEVELS
from mgh_ds.records.schema import Record

MOST_RECORDS = 3000  # with four levels 12,000 texts: an interval of about ± 0.8 points
FOLDS = 4
MOST_FEATURES = 50_000  # of words, and again of characters
TELLING_WORDS = 6


def shortcut(records: Sequence[Record], rng: np.random.Generator, progress: Progress) -> dict[str, Any]:
    """Accuracy at telling the levels by words and characters, and by lengths only; chance is 1 / levels."""
    chosen = np.sort(rng.permutation(len(records))[:MOST_RECORDS])
    reason = too_few(len(chosen))
    if reason:
        return {"too_few": reason}
    texts = [text for row in chosen.tolist() for text in graded_negatives(records[row])]
    asked = np.tile(LEVELS, (len(chosen), 1))
    labels = {"asked": asked.ravel(), "permuted": rng.permuted(asked, axis=1).ravel()}
    by_text, telling = _by_text(texts, labels, rng, progress)
    return {
        "too_few": None,
        "records": len(chosen),
        "chance": 1 / len(LEVELS),
        "text": by_text,
        "lengths": _by_lengths(texts, labels, rng),
        "telling_words": telling,
    }


def _by_text(
    texts: list[str], labels: dict[str, Int64s], rng: np.random.Generator, progress: Progress
) -> tuple[dict[str, Estimate], dict[str, list[str]]]:
    """Accuracies by TF-IDF of words and characters, and the words that speak most for each level."""
    # Fitted on all texts at once: counting words sees no label, so nothing leaks between the folds.
    by_word = TfidfVectorizer(analyzer=lambda text: normalised(text).split(), max_features=MOST_FEATURES)
    by_char = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), max_features=MOST_FEATURES)
    features = make_union(by_word, by_char).fit_transform(texts)
    names = by_word.get_feature_names_out()
    weights = np.zeros((len(LEVELS), len(names)))
    hits = {name: np.empty(len(texts)) for name in labels}
    for fold, (train, test) in enumerate(_folds(len(texts))):
        progress("shortcut probe", fold, FOLDS)
        for name, values in labels.items():
            # Logistic regression by stochastic gradient descent: seconds where an exact solver takes minutes.
            probe = SGDClassifier("log_loss", alpha=1e-5, max_iter=20, tol=None, random_state=fold)
            probe.fit(features[train], values[train])
            hits[name][test] = probe.predict(features[test]) == values[test]
            if name == "asked":
                weights += probe.coef_[:, : len(names)]
    progress("shortcut probe", FOLDS, FOLDS)
    best = np.argsort(-weights, axis=1, kind="stable")[:, :TELLING_WORDS]
    telling = {str(level): names[at].tolist() for level, at in zip(LEVELS, best, strict=True)}
    return _accuracies(hits, rng), telling


def _by_lengths(texts: list[str], labels: dict[str, Int64s], rng: np.random.Generator) -> dict[str, Estimate]:
    """Accuracies by the numbers of characters and words, their logarithms squared too."""
    sizes = np.log([[len(text), 1 + len(words(text))] for text in texts])
    hits = {name: np.empty(len(texts)) for name in labels}
    for train, test in _folds(len(texts)):
        for name, values in labels.items():
            probe = make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression(max_iter=1000))
            probe.fit(sizes[train], values[train])
            hits[name][test] = probe.predict(sizes[test]) == values[test]
    return _accuracies(hits, rng)


def _folds(texts: int) -> list[tuple[Int64s, Int64s]]:
    """Train and test positions; a record's texts are never on both sides."""
    groups = np.arange(texts) // len(LEVELS)
    return list(GroupKFold(FOLDS).split(groups, groups=groups))


def _accuracies(hits: dict[str, Floats], rng: np.random.Generator) -> dict[str, Estimate]:
    """Mean accuracy, its interval over records: a record's texts are not independent."""
    by_record: npt.NDArray[np.float64] = np.column_stack(
        [values.reshape(-1, len(LEVELS)).mean(axis=1) for values in hits.values()]
    )
    return dict(zip(hits, bootstrap_means(by_record, rng), strict=True))
