"""The data card and the manifest's notes of a merged data set: what is in it, how it was made, what it
cost."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mgh_ds.records.levels import LEVELS, MEDIUM
from mgh_ds.records.schema import Record
from mgh_ds.synthesis.counts import Counts
from mgh_ds.synthesis.levels import in_words
from mgh_ds.synthesis.plan import SynthesisPlan


class DataCard:
    """Collects counts row by row."""

    def __init__(self, plan: SynthesisPlan, partial: bool, short: int, dropped: Counter[str]):
        """`short` is the number of shards that ended short of their goal, `dropped` counts by finding."""
        self.plan, self.partial, self.short, self.dropped = plan, partial, short, dropped
        self.engines: Counter[str] = Counter()
        self.by: dict[str, Counter[str]] = {"subtype": Counter(), "language": Counter(), "domain": Counter()}
        self.tasks: set[str] = set()

    def add(self, row: dict[str, Any], record: Record | None) -> None:
        """Counts a unit; `record` is None if it was refused."""
        self.engines[row["engine"]] += 1
        if record is not None:
            self.by["subtype"][record.task.subtype] += 1
            self.by["language"][record.language] += 1
            self.by["domain"][record.source.get("domain", "not drawn")] += 1
            self.tasks.add(row["task_id"])

    def notes(self, counts: Counts) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "made_by": "mgh-ds synth merge",
            "plan_hash": self.plan.plan_hash,
            "partial": self.partial,
            "short_shards": self.short,
            "dropped": dict(sorted(self.dropped.items())),
            "filters": self.plan.config.filters.model_dump(),
            "counts": counts.as_json(),
        }

    def render(self, counts: Counts) -> str:
        """The card as Markdown."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # Markdown; what it is given are names and numbers of the plan, no model text
        )
        config = self.plan.config
        return environment.get_template("card.md.jinja").render(
            config=config,
            levels=LEVELS,
            medium=MEDIUM,
            in_words=in_words,
            enumerated=_enumerated,
            plan_hash=self.plan.plan_hash,
            partial=self.partial,
            short=self.short,
            dropped=dict(sorted(self.dropped.items())),
            filters=config.filters.model_dump(),
            noise=config.engine.kind == "scripted" or "tiny-random" in config.engine.model,
            engines=sorted(self.engines),
            counts=counts,
            by=self.by,
            tasks=len(self.tasks),
        )


def _enumerated(numbers: Sequence[int]) -> str:
    """The numbers as in a sentence: 2, 3 and 4."""
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}" if others else last
