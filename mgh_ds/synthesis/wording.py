"""Texts reduced to their words, to tell which are the same and what they say: pure functions."""

import re
import unicodedata

WORD = re.compile(r"\w+")
# Every punctuation mark that texts are written with, after compatibility forms (such as full-width ones) have
# become the usual ones; and what joins or separates letters without being seen.
MARKS = "".join(
    character for character in map(chr, range(0x3100)) if unicodedata.category(character).startswith("P")
)
UNSEEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
SENTENCE_ENDS = "|.!?:;\n\u061f\u06d4\u0964\u3002"
NO_ENDS = dict.fromkeys(map(ord, SENTENCE_ENDS))
# Words with their accents, vowel signs and symbols (C++, 5°), and what changes a meaning: the sign of a
# number, per cent, and C#. The modifier apostrophe counts as a mark, as the others do.
TOKEN = re.compile(rf"[^\s|\u02bc{UNSEEN}{re.escape(MARKS)}]+|[{SENTENCE_ENDS}]|%|(?<!\S)-(?=\d)|(?<=\w)#")


def fold(text: str) -> str:
    """Equal for texts that differ in nothing that counts: compatibility form, no case, single spaces, no
    punctuation. Signs that change a meaning stay: -5 is not 5, C# not C."""
    return without_ends(sentences(text))


def sentences(text: str) -> str:
    """The words of a folded text with what ends its sentences, between two bars: `| no . not so |`."""
    even = unicodedata.normalize("NFKC", text).casefold()
    # The rest of a Turkish capital's dot would make two spellings of one word.
    return " ".join(["|", *TOKEN.findall(even.replace("i\u0307", "i")), "|"])


def without_ends(words: str) -> str:
    """What `fold` makes of a text, from what `sentences` makes of it."""
    return " ".join(words.translate(NO_ENDS).split())


def normalise(text: str) -> str:
    """Words alone, in lower case and compatibility form."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).lower()))
