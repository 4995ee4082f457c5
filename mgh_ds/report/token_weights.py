"""The heat map of token weights: each token's pooling weight relative to uniform, before and after."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from mgh_ds.report.data import Run

BYTE_LEVEL = "Ġ"
WORD_START = (BYTE_LEVEL, "▁")  # byte-level BPE and SentencePiece mark the beginning of a word
CONTINUATION = "##"  # WordPiece marks the rest of one
GARBLED = "\N{REPLACEMENT CHARACTER}"  # stands in a token that holds a part of a character
CAPS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Weighted(Protocol):
    """A text's tokens, and a pooling weight for each of them, summing to 1."""

    @property
    def tokens(self) -> list[str]: ...

    @property
    def weights(self) -> list[float]: ...


@dataclass(frozen=True)
class Token:
    """A token as shown: `ratio` is its weight × the number of weighted tokens, so 1 is uniform pooling.

    `strength` in 0..1 is |log ratio| on the page's scale; `side` is "more", "less" or "off" (weight 0).
    """

    text: str
    starts_word: bool
    ratio: float
    strength: float
    side: str


@dataclass(frozen=True)
class HeatMap:
    """One text's tokens, and the three that weigh most."""

    tokens: list[Token]
    heaviest: list[Token]


@dataclass(frozen=True)
class TextHeat:
    """A text with its heat maps; either may not be there yet."""

    text: str
    before: HeatMap | None
    after: HeatMap | None


def heat_maps(run: Run) -> tuple[list[TextHeat], float]:
    """The texts of token_weights.json in order, on one common scale, and that scale's cap."""
    cap = common_cap(run.weighted_texts)
    maps = {(text.text, text.label): heat_map(text, cap) for text in run.weighted_texts}
    texts = dict.fromkeys(text.text for text in run.weighted_texts)
    return [TextHeat(text, maps.get((text, "before")), maps.get((text, "after"))) for text in texts], cap


def common_cap(texts: Iterable[Weighted]) -> float:
    """Where one scale for all these texts ends.

    The colours are logarithmic and reach full strength at `cap` × uniform (and at 1/cap): the smallest
    power of two that holds 95 % of all tokens, so that one outlier does not wash the others out.
    """
    everywhere = sorted(abs(math.log(ratio)) for text in texts for ratio in ratios(text) if ratio > 0)
    reach = math.exp(everywhere[int(0.95 * (len(everywhere) - 1))]) if everywhere else 1.0
    return next((cap for cap in CAPS if cap >= reach), CAPS[-1])


def ratios(text: Weighted) -> list[float]:
    """Each token's weight × the number of tokens that have one: tokens masked out of pooling (weight 0),
    such as an instruction's, do not count, for uniform pooling would leave them out too."""
    weighted = sum(weight > 0 for weight in text.weights)
    return [weight * weighted for weight in text.weights]


def heat_map(text: Weighted, cap: float) -> HeatMap:
    """The text on a scale that ends at `cap`."""
    marked = any(token.startswith(WORD_START) for token in text.tokens)
    bytewise = any(token.startswith(BYTE_LEVEL) for token in text.tokens)
    shown = zip(map(_from_bytes, text.tokens) if bytewise else text.tokens, ratios(text), strict=True)
    tokens = [_token(token, ratio, cap, marked) for token, ratio in shown]
    return HeatMap(tokens, sorted(tokens, key=lambda token: -token.ratio)[:3])


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes: those that Latin-1 can print stand for themselves,
    the others, in order, have the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_alphabet()


def _from_bytes(token: str) -> str:
    """A token of byte-level BPE as the text that it stands for; the mark of a word's beginning stays."""
    start, rest = token[: token.startswith(BYTE_LEVEL)], token.removeprefix(BYTE_LEVEL)
    if not all(character in BYTES for character in rest):  # a special token, which is written as it is
        return token
    return start + bytes(BYTES[character] for character in rest).decode("utf-8", errors="replace")


def _token(token: str, ratio: float, cap: float, marked: bool) -> Token:
    starts_word = token.startswith(WORD_START) if marked else not token.startswith(CONTINUATION)
    text = token.lstrip("".join(WORD_START)) if marked else token.removeprefix(CONTINUATION)
    strength = min(1.0, abs(math.log(ratio)) / math.log(cap)) if ratio > 0 else 0.0
    side = "off" if ratio == 0 else "more" if ratio >= 1 else "less"
    return Token(text or "·", starts_word, ratio, round(strength, 3), side)
