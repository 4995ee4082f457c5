"""The subtypes of tasks in one table, and what the rest of the code needs to know of each.

A new subtype is a row here and, in `synthesis/templates/tasks.jinja`, the words that describe it to a
language model. Imports nothing, so that a command line can list the names at once.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["asymmetric", "symmetric"]
Length = Literal["short", "long", "sentence"]


@dataclass(frozen=True)
class SubtypeTraits:
    """What sets a subtype apart.

    kind      asymmetric: the positive answers the query; symmetric: both texts play the same part
    query     how long the query is: names the bounds `filters.<length>_chars` and the slot `<length>_length`
    document  the same for the positive and the negatives
    weight    how often synthesis asks for it where a recipe does not say, relative to the others; 0: never
    """

    kind: Kind
    query: Length
    document: Length
    weight: int


SUBTYPES: dict[str, SubtypeTraits] = {
    "long-long": SubtypeTraits("asymmetric", "long", "long", 2),
    "long-short": SubtypeTraits("asymmetric", "long", "short", 2),
    "short-long": SubtypeTraits("asymmetric", "short", "long", 2),
    "short-short": SubtypeTraits("asymmetric", "short", "short", 2),
    "paraphrase": SubtypeTraits("symmetric", "sentence", "sentence", 1),
    "sts": SubtypeTraits("symmetric", "sentence", "sentence", 1),
}


def default_probabilities() -> dict[str, float]:
    """The probability of each subtype that a synthesis asks for by default; they sum to 1."""
    total = sum(traits.weight for traits in SUBTYPES.values())
    return {name: traits.weight / total for name, traits in SUBTYPES.items() if traits.weight}
