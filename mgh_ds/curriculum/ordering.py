"""Sorting millions of records in a fraction of a second."""

import numpy as np
import numpy.typing as npt


def order_by(group: npt.ArrayLike, value: np.ndarray) -> np.ndarray:
    """Positions that sort by `group`, then by `value`; equal ones stay in their order.

    Both are packed with the position into one 64-bit key, because sorting plain integers takes a fraction of
    the time and memory of `np.lexsort`. Of `value` the highest bits that have room are looked at: all of them
    for lengths of texts, 31 for the order of 2.4 M records in 2,000 groups.

    Args:
        group: integers from 0, [n], or one for all.
        value: integers from 0, [n].

    Returns int32 [n].
    """
    place_bits = len(value).bit_length()
    room = 64 - place_bits - int(np.max(group, initial=0)).bit_length()
    value_bits = int(value.max(initial=0)).bit_length()
    keys = np.empty(len(value), dtype=np.uint64)
    keys[:] = group
    keys <<= np.uint64(min(value_bits, room))
    keys |= value.astype(np.uint64) >> np.uint64(max(0, value_bits - room))
    keys <<= np.uint64(place_bits)
    keys |= np.arange(len(keys), dtype=np.uint32)
    keys.sort()
    keys &= np.uint64((1 << place_bits) - 1)
    return keys.astype(np.int32)
