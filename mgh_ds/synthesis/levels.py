"""What each level of difficulty means to those who write negatives: one row a level.

How many levels there are is said in `records.levels`; a row here says what a level is called in an answer,
what a prompt asks for, and what the scripted engine makes of it. The marks are how templates speak of all
levels at once.
"""

import re
from dataclasses import dataclass

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records.levels import LEVELS

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MARK = re.compile(r"\[\[([A-Z ]+)\]\]")


@dataclass(frozen=True)
class NegativeLevel:
    """One level's negative.

    key           its key in an answer
    asymmetric    what prompts ask of it where the positive answers the query
    symmetric     the same where the positive means what the query means
    shared_words  the part of its words that the scripted engine takes from the positive, in [0, 1)
    """

    key: str
    asymmetric: str
    symmetric: str
    shared_words: float


NEGATIVE_LEVELS: dict[int, NegativeLevel] = {
    1: NegativeLevel(
        key="easy_negative",
        asymmetric="A quite different topic, in the same genre and language.",
        symmetric="A statement on a quite different topic, in the same genre and language.",
        shared_words=0.05,
    ),
    2: NegativeLevel(
        key="far_negative",
        asymmetric="A neighbouring topic in the same field; only some general terms are shared with the "
        "query.",
        symmetric="A statement on a neighbouring topic; only some general terms are shared with the query.",
        shared_words=0.3,
    ),
    3: NegativeLevel(
        key="near_negative",
        asymmetric="The same topic as the query, but about another aspect of it, so that it answers a "
        "different question.",
        symmetric="The same topic and situation as the query, but another statement about it.",
        shared_words=0.5,
    ),
    4: NegativeLevel(
        key="hard_negative",
        asymmetric="It has the query's topic, its vocabulary and the positive's degree of detail, and looks "
        "like the right text at first sight. One decisive difference (another condition, entity, time, "
        "quantity, direction or purpose) means that it does not answer this query. It uses at least as many "
        "of the query's words as the positive does.",
        symmetric="It has the query's topic and most of its words and construction, more of them than the "
        "positive, but one decisive difference (who does what to whom, a number, a time, a place, a "
        "negation, a cause or a condition), so that it does not say the same.",
        shared_words=0.75,
    ),
}

# The keys of an answer's negatives with their levels, in the order of writing: the hardest first.
LEVEL_OF: dict[str, int] = {NEGATIVE_LEVELS[level].key: level for level in reversed(LEVELS)}


def in_words(number: int) -> str:
    """A small number as prompts and cards write it: four."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def expand_marks(template: str, where: str) -> str:
    """A template with its marks replaced, which makes it independent of this version's levels.

        [[NEGATIVES]]                  how many negatives there are, in words
        [[DOCUMENTS]]                  with the positive
        [[TEXTS]]                      with positive and query
        [[ASYMMETRIC LEVELS]]          a line on the key and meaning of each negative, the hardest first
        [[SYMMETRIC LEVELS]]           the same for symmetric tasks

    Raises MghError naming `where` for any other mark.
    """
    marks = {
        "NEGATIVES": in_words(len(LEVELS)),
        "DOCUMENTS": in_words(len(LEVELS) + 1),
        "TEXTS": in_words(len(LEVELS) + 2),
        "ASYMMETRIC LEVELS": _level_lines("asymmetric"),
        "SYMMETRIC LEVELS": _level_lines("symmetric"),
    }

    def replacement(found: re.Match[str]) -> str:
        if found[1] not in marks:
            near = nearest(found[1], marks, "[[{}]]")
            raise MghError(
                f"template {where}: the mark {found[0]} is unknown{near or '.'} Known: {', '.join(marks)}"
            )
        return marks[found[1]]

    return MARK.sub(replacement, template)


def _level_lines(kind: str) -> str:
    return "\n".join(
        f'- "{key}": similarity {level} of {len(LEVELS)}. {getattr(NEGATIVE_LEVELS[level], kind)}'
        for key, level in LEVEL_OF.items()
    )
