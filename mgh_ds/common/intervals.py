"""Intervals around a share of successes."""

import math

Z = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def wilson(share: float, total: int) -> tuple[float, float]:
    """The 95 % score interval of a share in 0..1 of `total` > 0 trials, its ends in 0..1 too.

    Its ends p solve |share − p| = Z · √(p · (1 − p) / total): Wilson, "Probable inference, the law of
    succession, and statistical inference", JASA 22, 1927.
    """
    weight = 1 + Z**2 / total
    centre = (share + Z**2 / (2 * total)) / weight
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / weight
    return max(0.0, centre - half), min(1.0, centre + half)
