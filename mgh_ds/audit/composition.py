"""What the data is made of, and what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgh_ds.audit.statistics import wilson
from mgh_ds.records.schema import Record


@dataclass(frozen=True)
class Cost:
    """What the samples cost: answers accepted, answers rejected by reason, and the tokens of all of them.

    `counted_in` and `counted_out` say of how many of the `answered` ones the tokens were counted, of prompt
    and answer.
    """

    accepted: int
    rejected: Mapping[str, int]
    tokens_in: int
    tokens_out: int
    answered: int = 0
    counted_in: int = 0
    counted_out: int = 0


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
    """Acceptance with Wilson's interval, and tokens for each accepted sample; null where nothing was made.
    Tokens are null where none were counted, those for each sample where not all were."""
    answers = cost.accepted + sum(cost.rejected.values())
    by_count = sorted(cost.rejected.items(), key=lambda item: (-item[1], item[0]))
    return {
        "answers": answers,
        "accepted": cost.accepted,
        "acceptance": wilson(cost.accepted, answers) if answers else None,
        "rejected": dict(by_count),
        "answered": cost.answered,
        **_tokens("in", cost.tokens_in, cost.counted_in, cost),
        **_tokens("out", cost.tokens_out, cost.counted_out, cost),
    }


def _tokens(way: str, tokens: int, counted: int, cost: Cost) -> dict[str, Any]:
    per_accepted = cost.accepted and counted == cost.answered
    return {
        f"tokens_{way}": tokens if counted or not cost.answered else None,
        f"counted_{way}": counted,
        f"tokens_{way}_per_accepted": round(tokens / cost.accepted, 1) if per_accepted else None,
    }
