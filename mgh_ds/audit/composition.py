"""What the data is made of, and what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgh_ds.audit.statistics import wilson
from mgh_ds.records.schema import Record


@dataclass(frozen=True)
class Cost:
    """What the samples cost: answers accepted, answers rejected by reason, and the tokens of all of them."""

    accepted: int
    rejected: Mapping[str, int]
    tokens_in: int
    tokens_out: int


def composition(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Records by subtype, by `source["domain"]` and by `source["dataset"]`, most frequent first."""
    subtypes, domains, datasets = Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        subtypes[record.task.subtype] += 1
        domains[record.source.get("domain", "not stated")] += 1
        datasets[record.source["dataset"]] += 1
    counts = {"subtypes": subtypes, "domains": domains, "datasets": datasets}
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def cost_figures(cost: Cost) -> dict[str, Any]:
    """Acceptance with Wilson's interval, and tokens for each accepted sample; null where nothing was made."""
    answers = cost.accepted + sum(cost.rejected.values())
    by_count = sorted(cost.rejected.items(), key=lambda item: (-item[1], item[0]))
    return {
        "answers": answers,
        "accepted": cost.accepted,
        "acceptance": wilson(cost.accepted, answers) if answers else None,
        "rejected": dict(by_count),
        "tokens_in": cost.tokens_in,
        "tokens_out": cost.tokens_out,
        "tokens_in_per_accepted": round(cost.tokens_in / cost.accepted, 1) if cost.accepted else None,
        "tokens_out_per_accepted": round(cost.tokens_out / cost.accepted, 1) if cost.accepted else None,
    }
