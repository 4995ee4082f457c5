"""Cards for what has none: a data set's counts by level and task, and a run or a model in a few lines."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mgh_ds import __version__
from mgh_ds.common.score_tables import markdown_table
from mgh_ds.records.levels import EASIEST, HARDEST
from mgh_ds.records.stats import UNGRADED

UNKNOWN = "unknown"
FORMS = {  # whether they are JSONL
    True: "A record is a line of JSON.",
    False: "They are a store, which mgh-ds reads: `mgh-ds pull datasets/OWNER/NAME FOLDER`.",
}


def data_card(
    name: str, found: Sequence[Mapping[str, Any]], license: str | None, *, jsonl: Sequence[str] = ()
) -> str:
    """Of a data set, from the `records.stats` of its JSONL files, whose names are `jsonl`, or of a store.
    `license` is the hub's key of one, such as cc-by-4.0; None: unknown, and the card says so."""
    total = sum(stats["records"] for stats in found)
    languages = sorted({language.split("-")[0].lower() for each in found for language in each["languages"]})
    splits: dict[str, list[str]] = {}
    for file in jsonl:
        splits.setdefault(re.sub(r"\W", "_", Path(file).stem), []).append(file)
    data_files = [
        {"split": split, "path": paths if len(paths) > 1 else paths[0]} for split, paths in splits.items()
    ]
    metadata = {
        "license": license or UNKNOWN,
        "language": languages,
        "task_categories": ["sentence-similarity", "feature-extraction"],
        "tags": ["mgh-ds", "hard-negatives"],
        # Of a store the hub's own viewer could show nothing: `datasets` knows no column of type map.
        **(
            {"configs": [{"config_name": "default", "data_files": data_files}]}
            if splits
            else {"viewer": False}
        ),
    }
    levels, with_level = Counter[str](), Counter[str]()
    for stats in found:
        for level, counts in stats["levels"].items():
            levels[level] += counts["negatives"]
            with_level[level] += counts["records"]
    lines = [
        f"{total:,} records for training text embeddings: a query, its positive, and negatives of levels",
        f"{EASIEST} (easy) to {HARDEST} (hard). {FORMS[bool(splits)]}",
        "",
        markdown_table(
            ["negatives", "texts", "in records"],
            [
                [level if level == UNGRADED else f"level {level}", f"{count:,}", f"{with_level[level]:,}"]
                for level, count in sorted(levels.items())
            ],
        ),
        "",
        *(_counts("task", "subtypes", found) + _counts("language", "languages", found)),
        "## Origin",
        "",
        *_counts("data set, as each record names it in `source`", "datasets", found),
        f"The licence is {license or 'not known: ask where the records come from'}.",
    ]
    return _card(metadata, name, lines)


def run_card(name: str, steps: str) -> str:
    """Of a run that has no exported model yet; `steps` says how far it is."""
    lines = [
        f"A run of mgh-ds without an exported model: {steps}. Below `run/` lies what it is gone on with:",
        "`mgh-ds pull REPO runs/NAME`, and the command that this prints.",
    ]
    return _card({"tags": ["mgh-ds"]}, name, lines)


def model_card(name: str) -> str:
    """Of an export that has lost its own."""
    metadata = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "sentence-similarity", "mgh-ds"],
    }
    return _card(metadata, name, ["A text-embedding model, exported by mgh-ds."])


def _card(metadata: Mapping[str, Any], title: str, lines: list[str]) -> str:
    head = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return (
        "\n".join([f"---\n{head}---", f"# {title}", "", *lines, "", f"Written by mgh-ds {__version__}."])
        + "\n"
    )


def _counts(header: str, key: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    counts = Counter[str]()
    for stats in found:
        counts.update(stats[key])
    rows = [[_cell(name), f"{count:,}"] for name, count in counts.most_common()]
    return [markdown_table([header, "records"], rows), ""]


def _cell(text: str) -> str:
    """A text of somebody's data as a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
