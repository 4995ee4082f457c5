"""Texts with ids, in an order: what is encoded, whatever it was read from."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mgh_ds.common.errors import MghError
from mgh_ds.records.columns import hash64


class Text(NamedTuple):
    """A text, the instruction that it is read under (None: the model's default prompt, if any), and where it
    stands, for messages."""

    id: str
    text: str
    instruction: str | None
    place: str


@dataclass(frozen=True)
class Survey:
    """What tells texts from others: how many they are, and the SHA-256 of ids, instructions and texts in
    their order, in hexadecimal."""

    count: int
    sha256: str


def survey(texts: Iterable[Text], see: Callable[[Text], object] = lambda _: None) -> Survey:
    """Reads all texts once, and shows each to `see`; memory holds 8 bytes of each. `texts` must begin anew at
    each iteration.

    Raises MghError for an id that occurs twice, with both places.
    """
    digest = hashlib.sha256()
    hashes = array("Q")
    for text in texts:
        for part in (text.id, text.instruction or "", text.text):
            encoded = part.encode("utf-8")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        hashes.append(hash64(text.id))
        see(text)
    found = np.frombuffer(hashes, dtype=np.uint64) if hashes else np.empty(0, np.uint64)
    ordered = np.sort(found)
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if twice:
        _refuse_equal_ids(texts, twice)
    return Survey(len(found), digest.hexdigest())


def _refuse_equal_ids(texts: Iterable[Text], suspects: set[int]) -> None:
    """Ids with the same hash, which may yet differ."""
    places: dict[str, str] = {}
    for text in texts:
        if hash64(text.id) in suspects:
            if text.id in places:
                raise MghError(f"{text.place}: id {text.id!r} is that of {places[text.id]} too")
            places[text.id] = text.place


def in_parts(texts: Iterable[Text], rows: int) -> Iterator[tuple[int, list[Text]]]:
    """Number and texts of each block of `rows` texts that follow one another; the last may have fewer."""
    part: list[Text] = []
    number = 0
    for text in texts:
        part.append(text)
        if len(part) == rows:
            yield number, part
            part, number = [], number + 1
    if part:
        yield number, part
