"""The audit of a set of graded records: measures, then writes `audit.json`, `audit.md`, `audit.html` and
`decisions.parquet` into one folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgh_ds.audit import page
from mgh_ds.audit.composition import Cost, composition, cost_figures
from mgh_ds.audit.decisions import write_decisions
from mgh_ds.audit.duplicates import duplicates, find_duplicates
from mgh_ds.audit.false_negatives import Judge, false_negatives
from mgh_ds.audit.hardness import hardness
from mgh_ds.audit.inputs import Progress, sample_rows
from mgh_ds.audit.languages import identify, languages
from mgh_ds.audit.lengths import lengths
from mgh_ds.audit.margins import margins
from mgh_ds.audit.shortcut import shortcut
from mgh_ds.audit.similarity import measure
from mgh_ds.common.errors import MghError
from mgh_ds.common.files import new_folder, write_json, write_text
from mgh_ds.common.protocols import Embed
from mgh_ds.records.relabelled import Relabelling
from mgh_ds.records.schema import Record


def audit(
    records: Sequence[Record],
    cost: Cost | None,
    embed: Embed,
    embedder_name: str,
    output: Path,
    *,
    judge: Judge | None = None,
    sample: int | None = None,
    seed: int = 0,
    left_out: int = 0,
    relabelling: Relabelling | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures `records` and replaces the folder `output`; returns what `audit.json` holds.

    `embed` gives unit vectors, float32 [n, dim]; it measures similarities and margins. Which negatives are
    false only `judge` says, where there is one. `sample` bounds the records that are embedded and judged; the
    checks of texts read all of them. `cost` is None where no language model was paid for the records.
    `left_out`, how many records had not a negative of each level, and `relabelling`, what a relabel pass did
    to all of them, are only shown.
    Raises MghError if there is no record, a record has anything but one negative of each level, an id occurs
    twice, or a model's answer breaks its contract; `output` then stays as it was.
    """
    progress = progress or (lambda _check, _done, _total: None)
    ids = _ids(records)
    rows = sample_rows(len(records), sample, seed)

    similar = measure(records, rows, embed, progress)
    verdicts = judge(records, rows, progress) if judge else None
    found_duplicates = find_duplicates(records, progress)
    found_languages = identify(records, progress)
    figures = {
        "records": len(records),
        "left_out": left_out,
        "embedded": len(rows),
        "embedder": embedder_name,
        "seed": seed,
        "composition": composition(records),
        "relabelled": relabelling.as_json() if relabelling and relabelling.by else None,
        "cost": cost_figures(cost) if cost else None,
        "hardness": hardness(similar, np.random.default_rng([seed, 1])),
        "margins": margins(records, similar),
        "false_negatives": false_negatives(records, verdicts),
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
            folder / "decisions.parquet", ids, similar, verdicts, found_duplicates, found_languages
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
