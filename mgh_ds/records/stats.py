"""What a data set holds, in numbers: how many records of which kind, with which levels, how long."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from mgh_ds.records.columns import scored
from mgh_ds.records.reader import read_records
from mgh_ds.records.relabelled import Relabelling
from mgh_ds.records.rows import ErrorReport, printable
from mgh_ds.records.schema import Record
from mgh_ds.records.store import Store, is_store
from mgh_ds.records.streams import Progress

PERCENTILES = (5, 50, 95, 100)
UNGRADED = "ungraded"


def stats(path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Counts over a store or an MGH JSONL file, as plain JSON values.

    `rejected` counts the rows of a JSONL file that are not records; everything else is about the records.
    Raises MghError if the path is missing or holds no record.
    """
    report = ErrorReport()
    found = _summarise(_records(path, report, progress))
    report.refuse_if_empty(path)
    return {"rejected": report.rejected, **found}


def stats_table(found: dict[str, Any]) -> Table:
    """The counts of `stats` for people."""
    table = Table(title=f"{found['records']:,} records", title_justify="left", show_header=False)
    for name in ("subtypes", "languages", "datasets"):
        counts = ", ".join(f"{printable(key)} {count:,}" for key, count in found[name].items())
        table.add_row(name, Text(counts))
    for level, counts in found["levels"].items():
        name = level if level == UNGRADED else f"level {level}"
        table.add_row(name, f"{counts['negatives']:,} negatives in {counts['records']:,} records")
    table.add_row("without negatives", f"{found['without_negatives']:,}")
    scores = found["scores"]
    table.add_row(
        "with scores", f"{scores['positive']:,} of the positive, {scores['whole']:,} of all negatives too"
    )
    for name, percentiles in found["chars"].items():
        shown = ", ".join(f"{percent} {value:,}" for percent, value in percentiles.items())
        table.add_row(f"{name} characters", shown or "none")
    if found["rejected"]:
        table.add_row(
            "refused rows", f"{found['rejected']:,}: see which with mgh-ds data validate", style="red"
        )
    return table


def _records(path: Path, report: ErrorReport, progress: Progress | None) -> Iterator[Record]:
    if not is_store(path):
        yield from read_records(path, report, progress)
        return
    for record in Store.open(path):
        report.rows_read += 1
        report.accepted += 1
        if progress:
            progress(1)
        yield record


def _summarise(records: Iterable[Record]) -> dict[str, Any]:
    subtypes, languages, datasets = Counter[str](), Counter[str](), Counter[str]()
    with_level, of_level = Counter[str](), Counter[str]()
    chars = {"query": array("i"), "positive": array("i"), "negative": array("i")}
    count = without_negatives = 0
    which_scores = Counter[int]()
    relabelling = Relabelling()
    for record in records:
        count += 1
        subtypes[record.task.subtype] += 1
        languages[record.language] += 1
        datasets[record.source["dataset"]] += 1
        levels = [str(negative.level or UNGRADED) for negative in record.negatives]
        of_level.update(levels)
        with_level.update(set(levels))
        without_negatives += not levels
        which_scores[scored(record.scores)] += 1
        relabelling.add(record.source)
        chars["query"].append(len(record.query))
        chars["positive"].append(len(record.positive))
        chars["negative"].extend(len(negative.text) for negative in record.negatives)
    return {
        "records": count,
        "subtypes": dict(subtypes.most_common()),
        "languages": dict(languages.most_common()),
        "datasets": dict(datasets.most_common()),
        "levels": {
            level: {"negatives": of_level[level], "records": with_level[level]} for level in sorted(of_level)
        },
        "without_negatives": without_negatives,
        "scores": {"positive": which_scores[1] + which_scores[2], "whole": which_scores[2]},
        "relabelled": relabelling.as_json() if relabelling.by else None,
        "chars": {name: _percentiles(lengths) for name, lengths in chars.items()},
    }


def _percentiles(lengths: "array[int]") -> dict[str, int]:
    if not lengths:
        return {}
    values = np.percentile(np.asarray(lengths), PERCENTILES, method="nearest")
    return {f"p{percent}": int(value) for percent, value in zip(PERCENTILES, values, strict=True)}
