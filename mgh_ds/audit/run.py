"""The audit of a set of graded records: measures, then writes `audit.json`, `audit.md`, `audit.html` and
`decisions.parquet` into one folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgh_ds.audit import false_negatives, page
from mgh_ds.audit.composition import Cost, composition, cost_figures
from mgh_ds.audit.decisions import write_decisions
from mgh_ds.audit.duplicates import duplicates, find_duplicates
from mgh_ds.audit.hardness import hardness
from mgh_ds.audit.inputs import Int64s, Progress
from mgh_ds.audit.languages import identify, languages
from mgh_ds.audit.lengths import lengths
from mgh_ds.audit.shortcut import shortcut
from mgh_ds.audit.similarity import Relevance, judge, measure
from mgh_ds.common.errors import MghError
from mgh_ds.common.files import new_folder, write_json, write_text
from mgh_ds.common.protocols import Embed, ScorePairs
from mgh_ds.records.schema import Record


def audit(
    records: Sequence[Record],
    cost: Cost,
    embed: Embed,
    embedder_name: str,
    output: Path,
    *,
    score_pairs: ScorePairs | None = None,
    scorer_name: str | None = None,
    sample: int | None = None,
    alpha: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures `records` and replaces the folder `output`; returns what `audit.json` holds.

    `embed` gives unit vectors, float32 [n, dim]; `score_pairs`, where there is one, gives probabilities of
    relevance [n], and decides on false negatives at the threshold `alpha` in the embedder's place. `sample`
    bounds the records that are embedded and scored; the checks of texts read all of them.
    Raises MghError if there is no record, a record has anything but one negative of each level, an id occurs
    twice, or a model's answer breaks its contract; `output` then stays as it was.
    """
    if score_pairs is not None and scorer_name is None:
        raise MghError("a scorer needs a name, for the report: pass scorer_name")
    if not 0 < alpha <= 1:
        raise MghError(f"alpha should be above 0 and at most 1 (found {alpha})")
    progress = progress or (lambda _check, _done, _total: None)
    ids = _ids(records)
    rows = _sample(len(records), sample, np.random.default_rng([seed, 0]))

    similar = measure(records, rows, embed, progress)
    relevance = (
        judge(records, rows, score_pairs, progress)
        if score_pairs is not None
        else Relevance(similar.query_positive, similar.to_query)
    )
    suspected = false_negatives.suspects(relevance, alpha)
    found_duplicates = find_duplicates(records, progress)
    found_languages = identify(records, progress)
    figures = {
        "records": len(records),
        "embedded": len(rows),
        "embedder": embedder_name,
        "seed": seed,
        "composition": composition(records),
        "cost": cost_figures(cost),
        "hardness": hardness(similar, np.random.default_rng([seed, 1])),
        "false_negatives": {
            "judge": scorer_name if score_pairs is not None else embedder_name,
            "by_cross_encoder": score_pairs is not None,
            "alpha": alpha,
            **false_negatives.false_negatives(suspected),
            "examples": false_negatives.examples(records, rows, relevance, alpha),
        },
        "shortcut": shortcut(records, np.random.default_rng([seed, 2]), progress),
        "lengths": lengths(records, progress),
        "duplicates": duplicates(found_duplicates, records),
        "languages": languages(records, found_languages),
    }
    with new_folder(output, replace=True) as folder:
        write_json(folder / "audit.json", figures)
        write_text(folder / "audit.md", page.markdown(figures))
        write_text(folder / "audit.html", page.html(figures))
        write_decisions(
            folder / "decisions.parquet", ids, similar, suspected, found_duplicates, found_languages
        )
    return figures


def _ids(records: Sequence[Record]) -> list[str]:
    ids = [record.id for record in records]
    if not ids:
        raise MghError("there are no records to audit: check what was accepted and why the rest was not")
    if len(set(ids)) < len(ids):
        [(twice, _)] = Counter(ids).most_common(1)
        raise MghError(f"id '{twice}' occurs twice: an audit needs one row an id")
    return ids


def _sample(count: int, most: int | None, rng: np.random.Generator) -> Int64s:
    """The records to embed: all, or `most` of them drawn without replacement, in their own order."""
    if most is None or most >= count:
        return np.arange(count)
    if most < 1:
        raise MghError(f"the sample should hold at least one record (found {most})")
    return np.sort(rng.choice(count, most, replace=False))
