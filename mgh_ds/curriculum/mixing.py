"""Keyed 64-bit mixing: a permutation of the records that needs no stored state.

splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) on numpy's
fixed-width integers, so the order is the same for every numpy version, platform and process.
"""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix64(values: np.ndarray, key: int) -> np.ndarray:
    """Scrambles uint64 values [n] under a 64-bit key; a bijection for each key."""
    with np.errstate(over="ignore"):
        mixed = values.astype(np.uint64)
        mixed ^= np.uint64(key)
        mixed += _GAMMA
        mixed ^= mixed >> np.uint64(30)
        mixed *= _FIRST
        mixed ^= mixed >> np.uint64(27)
        mixed *= _SECOND
        mixed ^= mixed >> np.uint64(31)
        return mixed


def fold_key(*parts: int) -> int:
    """One 64-bit key from several integers (seed, stage, epoch, …); their order matters."""
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = mix64(key ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF), 0x6D67682D6473)
    return int(key[0])
