"""Talk: an answer about the answer instead of the answer. "I cannot assist with that", "as a language model",
"here is the JSON", in the languages of slots.yaml.

Two texts can share most of their words and yet one is talk ("I can't help with that.") and the other is not
("I can't help but notice my basil wilts"). So a phrase counts with what it is about and where it stands. The
patterns of `talk.yaml` are folded as texts are (`wording.py`): apostrophes, case and widths do not matter.

    (a|b)   either           ( a)?  ( a)*  perhaps, perhaps several times
    ^       a sentence begins       $       it ends       …   up to 20 characters within it
    @       the text begins         ¶       an end of a sentence
    [[CANNOT]]   the language's `cannot`
    [[FIRST]]    the text begins, perhaps with the language's `sorry`

What anybody may say within a text ("I can't write that.") counts only where a text begins with it.

`cues` are words of which each pattern has one: a text without them is spared the search. Where words are not
told apart by spaces, cues and patterns may stand within them. What is found and what is not is measured by
tests/synthesis/test_talk.py; a filter like this is never complete.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from mgh_ds.records.levels import EASIEST, HARDEST
from mgh_ds.synthesis.levels import NEGATIVE_LEVELS
from mgh_ds.synthesis.wording import SENTENCE_ENDS, fold

PACKAGED_TALK = Path(__file__).with_name("talk.yaml")
UNSPACED = ("ja", "th", "zh")
JOINED = (*UNSPACED, "ko")  # Korean has spaces, but endings are one with their words
SIGN = re.compile(r"[()|?*^$…@¶ ]")
MEANING = {
    "(": "(?:",
    "^": f"(?<=[{SENTENCE_ENDS}] )",
    "$": f"(?= [{SENTENCE_ENDS}])",
    "@": r"(?<=\A\| )",
    "¶": f"[{SENTENCE_ENDS}]",
    "…": f"[^{SENTENCE_ENDS}]{{0,20}}?",
}


@dataclass(frozen=True, eq=False, slots=True)
class Talk:
    """One language's patterns as one."""

    cues: tuple[str, ...]
    joined: bool
    pattern: re.Pattern[str]


def is_talk(words: str) -> bool:
    """Whether a text, as `wording.sentences` leaves it, refuses, or speaks of the model, the prompt or the
    answer."""
    by_cue, cues, joined = _by_cue()
    near = [talk for cue in cues.intersection(words.split()) for talk in by_cue[cue]]
    if not words.isascii():
        near += [talk for talk in joined if any(cue in words for cue in talk.cues)]
    return any(talk.pattern.search(words) for talk in dict.fromkeys(near))


@functools.cache
def languages() -> dict[str, Talk]:
    """The talk of each language; that of no language is the names that prompts give to negatives."""
    table = yaml.safe_load(PACKAGED_TALK.read_text(encoding="utf-8"))
    names = [NEGATIVE_LEVELS[level].key.replace("_", " ") for level in (HARDEST, EASIEST)]
    table[""] = {"cues": [name.split()[0] for name in names], "patterns": names}
    return {language: _talk(language, **entry) for language, entry in table.items()}


@functools.cache
def _by_cue() -> tuple[dict[str, list[Talk]], frozenset[str], list[Talk]]:
    """By cue the languages that have it, all cues, and the languages whose cues are parts of words."""
    by_cue: dict[str, list[Talk]] = {}
    for talk in languages().values():
        for cue in () if talk.joined else talk.cues:
            by_cue.setdefault(cue, []).append(talk)
    return by_cue, frozenset(by_cue), [talk for talk in languages().values() if talk.joined]


def _talk(language: str, cues: list[str], patterns: list[str], cannot: str = "", sorry: str = "") -> Talk:
    marks = {"[[CANNOT]]": cannot, "[[FIRST]]": f"@(({sorry})( ¶)? ?)*"}
    for mark, meaning in marks.items():
        patterns = [pattern.replace(mark, meaning) for pattern in patterns]
    either = "|".join(f"(?:{_expression(pattern)})" for pattern in patterns)
    bounded = either if language in UNSPACED else rf"(?<= )(?:{either})(?= )"
    return Talk(tuple(map(fold, cues)), language in JOINED, re.compile(bounded))


def _expression(pattern: str) -> str:
    """A pattern as a regular expression: its words folded, its signs replaced."""
    words, signs = SIGN.split(pattern), SIGN.findall(pattern)
    found = [re.escape(fold(word)) for word in words]
    return "".join(word + MEANING.get(sign, sign) for word, sign in zip(found, [*signs, ""], strict=True))
