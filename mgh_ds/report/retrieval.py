"""The retrieval browser: what a few held-out queries found before training and after it, side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mgh_ds.report.data import Found, Query, Retrieved, Run
from mgh_ds.report.token_weights import GARBLED, HeatMap, common_cap, heat_map

RISEN, FALLEN, KEPT = 5, 4, 3  # how many queries are shown, by what became of their positive
LONGEST = 120  # tokens shown of a text


@dataclass(frozen=True)
class Text:
    """A text, and its first tokens by weight, where the weights are known and the tokens whole letters;
    `rest` is how many are not shown."""

    text: str
    heat: HeatMap | None
    rest: int = 0


@dataclass(frozen=True)
class Document:
    """A document that was found. `elsewhere` is its rank in the other column; None: it is not known there."""

    rank: int
    cosine: float
    kind: str
    level: int | None
    text: Text
    elsewhere: int | None
    after_gap: bool  # documents between the one above and this one are not shown


@dataclass(frozen=True)
class Column:
    """What a query found before or after training: the documents, best first, and how many are sure to be
    the first ones: a document without a rank here is beyond them."""

    query: Text
    documents: list[Document]
    first: int


@dataclass(frozen=True)
class Item:
    """A query of the browser. `ranks` are those of its best positive, before and after; a column that is not
    there yet is None, and so is its rank."""

    query: str
    instruction: str | None
    ranks: tuple[int | None, int | None]
    before: Column | None
    after: Column | None

    @property
    def change(self) -> float:
        """The logarithm of the ranks' ratio, above 0 where the positive rose: from 60th to 6th is as much as
        from 10th to first. 0 where one of them is not known."""
        before, after = self.ranks
        return math.log(before / after) if before and after else 0.0


@dataclass(frozen=True)
class RetrievalBrowser:
    """The queries shown, of how many kept, among how many documents; and where the colours' scale ends."""

    items: list[Item]
    kept: int
    documents: int
    cap: float


def retrieval_browser(run: Run) -> RetrievalBrowser | None:
    """The run's browser; None where its evaluations keep nothing of retrieval."""
    sides = [evaluation.retrieved if evaluation else None for evaluation in (run.before, run.after)]
    before, after = map(_by_query, sides)
    asked = [key for key in before or after if not (before and after) or key in after]
    if not asked:
        return None
    cap = common_cap(run.retrieved_weights)
    heat: dict[tuple[str, str | None, str], HeatMap] = {
        (text.label, text.instruction, text.text): heat_map(text, cap) for text in run.retrieved_weights
    }
    items = [_item(before.get(key), after.get(key), heat) for key in asked]
    documents = max(side.documents for side in sides if side)
    return RetrievalBrowser(chosen(items), len(items), documents, cap)


def chosen(items: Sequence[Item]) -> list[Item]:
    """Those whose positive rose most, those whose positive fell most, and some where it stayed: `RISEN`,
    `FALLEN` and `KEPT` of them, or more of one kind where there are fewer of another. Of equals the first
    come first, in the order given."""
    groups = [
        sorted((item for item in items if item.change > 0), key=lambda item: -item.change),
        sorted((item for item in items if item.change < 0), key=lambda item: item.change),
        [item for item in items if item.change == 0],
    ]
    wanted = RISEN, FALLEN, KEPT
    numbers = [min(number, len(group)) for number, group in zip(wanted, groups, strict=True)]
    for place, group in enumerate(groups):
        numbers[place] += min(len(group) - numbers[place], sum(wanted) - sum(numbers))
    return [item for number, group in zip(numbers, groups, strict=True) for item in group[:number]]


Key = tuple[str | None, str]
Heat = Mapping[tuple[str, str | None, str], HeatMap]


def _by_query(side: Retrieved | None) -> dict[Key, Query]:
    return {(query.instruction, query.query): query for query in side.queries} if side else {}


def _item(before: Query | None, after: Query | None, heat: Heat) -> Item:
    query = after or before
    assert query is not None
    return Item(
        query.query,
        query.instruction,
        (_rank(before), _rank(after)),
        _column(before, after, heat, "before"),
        _column(after, before, heat, "after"),
    )


def _rank(query: Query | None) -> int | None:
    """Of the best positive."""
    return (
        min((found.rank for found in query.found if found.kind == "positive"), default=None)
        if query
        else None
    )


def _column(query: Query | None, other: Query | None, heat: Heat, label: str) -> Column | None:
    if query is None:
        return None
    elsewhere = {found.text: found.rank for found in other.found} if other else {}
    ranks = [0, *(found.rank for found in query.found)]
    return Column(
        _text(query.query, heat.get((label, query.instruction, query.query))),
        [
            Document(
                found.rank,
                found.cosine,
                found.kind,
                found.level,
                _text(found.text, heat.get((label, None, found.text))),
                elsewhere.get(found.text),
                after_gap=found.rank > above + 1,
            )
            for above, found in zip(ranks, query.found, strict=False)
        ],
        _first(query.found),
    )


def _first(found: Sequence[Found]) -> int:
    """How many documents stand without a gap from the first rank on."""
    return sum(each.rank == place for place, each in enumerate(found, start=1))


def _text(text: str, heat: HeatMap | None) -> Text:
    if heat is None or any(GARBLED in token.text for token in heat.tokens):
        return Text(text, None)
    return Text(text, HeatMap(heat.tokens[:LONGEST], heat.heaviest), max(0, len(heat.tokens) - LONGEST))
