"""Numbers and axes for people: short texts for values, round numbers for ticks."""

import math


def number(value: float) -> str:
    """A value to about three digits: 1.2 M, 12,300, 0.431, 2·10⁻⁵."""
    magnitude = abs(value)
    if magnitude >= 1e6:
        text = f"{value / 1e6:,.4g} M"
    elif magnitude >= 1000:
        text = f"{value:,.0f}"
    elif magnitude >= 1e-3 or value == 0:
        text = f"{value:.3g}"
    else:
        mantissa, exponent = f"{value:.2e}".split("e")
        superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        text = f"{mantissa.rstrip('0').rstrip('.')}·10{superscript}"
    return text.replace("-", "−")


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) that enclose [low, high]."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def tick_names(values: list[float]) -> list[str]:
    """The ticks as text: one unit for all, and as many decimals as the finest of them needs."""
    largest = max(abs(value) for value in values)
    if largest < 1e-3:
        return [number(value) for value in values]
    scale, unit = (1e6, " M") if largest >= 1e6 else (1.0, "")
    scaled = [value / scale for value in values]
    exact = (all(abs(round(v, d) - v) <= 1e-9 * largest / scale for v in scaled) for d in range(13))
    decimals = next((d for d, fits in enumerate(exact) if fits), 12)
    return [f"{value:,.{decimals}f}{unit}".replace("-", "−") for value in scaled]
