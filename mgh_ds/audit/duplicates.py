"""Duplicates: equal queries, equal positives, and records that say nearly the same.

MinHash finds candidates, the exact Jaccard similarity of word 3-grams confirms them. Memory is 8 bytes a band
and record, beside a few arrays: a million records take about 200 MB.
"""

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from mgh_ds.audit.inputs import EXAMPLES, Int64s, Progress, excerpt, with_progress
from mgh_ds.audit.words import normalised
from mgh_ds.records.schema import Record

NGRAM = 3
THRESHOLD = 0.7  # Jaccard similarity of word 3-grams from which two records are near duplicates
# Two records of similarity 0.7 share a band with probability 1 − (1 − 0.7⁴)²⁴ = 0.9986.
BANDS, ROWS = 24, 4

UInt64s = npt.NDArray[np.uint64]
Similar = Callable[[int, int], bool]


@dataclass(frozen=True)
class Duplicates:
    """For each record the position of the first of its group, by id, or −1 if it is that one or alone:
    int64 [n]."""

    query: Int64s
    positive: Int64s
    near: Int64s


def find_duplicates(records: Sequence[Record], progress: Progress) -> Duplicates:
    """Groups of records by equal query, by equal positive (words alike), and by nearly the same query and
    positive together; the last are chained: a group holds whatever a chain of near duplicates links."""
    count = len(records)
    ids: list[str] = []
    digests = np.empty((count, 2), np.uint64)
    bands = np.empty((count, BANDS), np.uint64)
    sketch = MinHash(num_perm=BANDS * ROWS, hashfunc=zlib.crc32)
    for row, record in enumerate(with_progress(records, "duplicates", progress)):
        ids.append(record.id)
        digests[row] = _digest(record.query), _digest(record.positive)
        bands[row] = _band_keys(sketch, shingles(record))
    by_id = np.array(sorted(range(count), key=ids.__getitem__), dtype=np.int64)

    @functools.lru_cache(maxsize=4096)
    def shingles_at(place: int) -> frozenset[str]:
        return shingles(records[int(by_id[place])])

    near = link(bands[by_id], lambda a, b: jaccard(shingles_at(a), shingles_at(b)) >= THRESHOLD)
    return Duplicates(
        query=_to_records(_first_of_equal(digests[by_id, 0]), by_id),
        positive=_to_records(_first_of_equal(digests[by_id, 1]), by_id),
        near=_to_records(near, by_id),
    )


def duplicates(found: Duplicates, records: Sequence[Record]) -> dict[str, Any]:
    """How many records repeat an earlier one, by id, and a few near duplicates to read."""
    places = np.flatnonzero(found.near >= 0)[:EXAMPLES].tolist()
    return {
        "same_query": int((found.query >= 0).sum()),
        "same_positive": int((found.positive >= 0).sum()),
        "near": int((found.near >= 0).sum()),
        "groups": len(np.unique(found.near[found.near >= 0])),
        "threshold": THRESHOLD,
        "examples": [_example(records[place], records[int(found.near[place])]) for place in places],
    }


def shingles(record: Record) -> frozenset[str]:
    """The word 3-grams of query and positive; a shorter text is one shingle."""
    found: set[str] = set()
    for text in (record.query, record.positive):
        parts = normalised(text).split()
        starts = range(max(1, len(parts) - NGRAM + 1))
        found.update(" ".join(parts[start : start + NGRAM]) for start in starts)
    return frozenset(found)


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared shingles over all shingles."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def link(bands: UInt64s, similar: Similar) -> Int64s:
    """Joins similar items of the same bucket, band by band, into groups; returns for each item its group's
    least index, or −1 for that item itself: int64 [n].

    Within a bucket, an item is compared with the members of each other group until one is similar.
    """
    parents = list(range(len(bands)))
    for band in range(bands.shape[1]):
        for bucket in _buckets(bands[:, band]):
            groups: dict[int, list[int]] = {}
            for item in bucket:
                for root in list(groups):
                    own = _root(parents, item)
                    # A root that is no key any more was joined to another of this bucket's groups.
                    if root in groups and root != own and any(similar(item, m) for m in groups[root]):
                        least = min(root, own)
                        parents[max(root, own)] = least
                        groups[least] = groups.pop(root) + groups.pop(own, [])
                groups.setdefault(_root(parents, item), []).append(item)
    roots = np.array([_root(parents, item) for item in range(len(bands))], dtype=np.int64)
    return np.where(roots == np.arange(len(bands)), -1, roots)


def _root(parents: list[int], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


def _buckets(keys: UInt64s) -> Iterator[list[int]]:
    """The positions of equal keys, where there are at least two."""
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    starts = np.concatenate([[0], edges])
    sizes = np.diff(np.concatenate([starts, [len(keys)]]))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size].tolist()


def _band_keys(sketch: MinHash, grams: Iterable[str]) -> UInt64s:
    """One 64-bit key a band: a hash of the band's rows."""
    sketch.clear()
    sketch.update_batch([gram.encode() for gram in grams])
    rows = sketch.hashvalues.astype("<u4").reshape(BANDS, ROWS)
    return np.array([_hash(row.tobytes()) for row in rows], dtype=np.uint64)


def _digest(text: str) -> int:
    return _hash(normalised(text).encode())


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _first_of_equal(keys: UInt64s) -> Int64s:
    """For each key the least position that holds the same one, or −1 at that position itself."""
    _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
    found = firsts[inverse]
    return np.where(found == np.arange(len(keys)), -1, found)


def _to_records(firsts: Int64s, by_id: Int64s) -> Int64s:
    """From positions in the order of ids to positions in the records' own order."""
    found = np.empty_like(firsts)
    found[by_id] = np.where(firsts < 0, -1, by_id[firsts])
    return found


def _example(record: Record, first: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "query": excerpt(record.query),
        "positive": excerpt(record.positive),
        "duplicate_of": first.id,
        "first_query": excerpt(first.query),
        "first_positive": excerpt(first.positive),
        "jaccard": round(jaccard(shingles(record), shingles(first)), 4),
    }
