"""Natural language inference (SNLI, MNLI, …): rows of `premise`, `hypothesis`, `label`, grouped by premise.

The premise is the query and each entailed hypothesis the positive of one record. Its negatives are

  hardest   the contradictions: nearly the same words, another meaning
  medium    the neutral hypotheses, the harder the more words they share with the positive
  easiest   a hypothesis of another premise, unrelated to this one

Neutrals are ranked by word overlap with the positive (Jaccard) and spread evenly over the medium levels, of
which the harder ones get what is left over. A lone neutral has the hardest medium level from an overlap of
0.3 on, which halves those of SNLI, and else the easiest.

Labels are names, or 0, 1, 2 in the order entailment, neutral, contradiction, as on the Hugging Face hub; a
row on which the annotators disagreed (-1 or "-") is refused. A premise without an entailment has no positive:
all its rows are refused.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from mgh_ds.records.convert.groups import Pair, PairGroups, settle
from mgh_ds.records.convert.settings import ForeignRow, Settings, make_record, parse_as
from mgh_ds.records.instructions import INSTRUCTIONS
from mgh_ds.records.levels import EASIEST, HARDEST, MEDIUM
from mgh_ds.records.rows import ErrorReport, Row, RowRefused
from mgh_ds.records.schema import Record, Text

LABELS = ("entailment", "neutral", "contradiction")
_NUMERALS = ("0", "1", "2")
LONE_NEUTRAL_OVERLAP = 0.3


def _label_name(label: Any) -> Any:
    if label in _NUMERALS:  # in a table, numbers are text
        label = _NUMERALS.index(label)
    if isinstance(label, str):
        return label.casefold()
    return LABELS[label] if type(label) is int and 0 <= label < len(LABELS) else label


class NliRow(ForeignRow):
    premise: Text
    hypothesis: Text
    label: Annotated[Literal["entailment", "neutral", "contradiction"], BeforeValidator(_label_name)]


reads = NliRow.reads


def records(rows: Iterable[Row], settings: Settings, report: ErrorReport) -> Iterator[Record]:
    def parse(row: Row) -> Pair:
        given = parse_as(NliRow, row, report)
        return Pair(row, given.premise, given.hypothesis, given.label)

    with PairGroups() as groups:
        groups.read(rows, parse, report)
        for group, following in _with_following(groups):
            yield from settle(group, partial(_make_records, group, following, settings), report)


def _with_following(groups: Iterable[list[Pair]]) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """Each group with the one after it; after the last comes the first."""
    groups = iter(groups)
    first = next(groups, None)
    if first is not None:
        yield from itertools.pairwise(itertools.chain([first], groups, [first]))


def _make_records(group: list[Pair], following: list[Pair], settings: Settings) -> list[Record]:
    texts: dict[str | float, list[str]] = {label: [] for label in LABELS}
    for pair in group:
        texts[pair.verdict].append(pair.second)
    if not texts["entailment"]:
        raise RowRefused(
            "label", "no_entailment", "No row of this premise is an entailment, so it has no positive"
        )
    own = {pair.second for pair in group}
    unrelated = [pair.second for pair in following if pair.first != group[0].first and pair.second not in own]
    return [
        make_record(
            pair.row,
            settings,
            query=pair.first,
            positive=pair.second,
            negatives=[
                *((text, EASIEST) for text in unrelated[:1]),
                *_grade_neutrals(texts["neutral"], pair.second),
                *((text, HARDEST) for text in texts["contradiction"]),
            ],
            subtype="short-short",
            fallback_instruction=INSTRUCTIONS["SNLI"].text,
        )
        for pair in group
        if pair.verdict == "entailment"
    ]


def _grade_neutrals(neutrals: list[str], positive: str) -> list[tuple[str, int]]:
    """(text, medium level) of each neutral, the farthest first."""
    if len(neutrals) == 1:
        is_near = _overlap(neutrals[0], positive) >= LONE_NEUTRAL_OVERLAP
        return [(neutrals[0], MEDIUM[-1] if is_near else MEDIUM[0])]
    ranked = sorted(neutrals, key=lambda text: _overlap(text, positive))
    hardest_first = [
        (text, MEDIUM[-1 - place * len(MEDIUM) // len(ranked)]) for place, text in enumerate(reversed(ranked))
    ]
    return hardest_first[::-1]


def _overlap(one: str, other: str) -> float:
    """Jaccard index of two texts' sets of words."""
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (one, other))
    return len(a & b) / max(1, len(a | b))
