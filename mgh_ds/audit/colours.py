"""Colours of the levels on the page, from the easiest to the hardest, for as many levels as there are."""

from collections.abc import Sequence

RAMPS = {
    "light": ("#1d9087", "#2b83ba", "#3c52a5", "#2e1760"),
    "dark": ("#3f8f8a", "#5aaee0", "#a9bcff", "#f0e2ff"),
}


def level_colours(theme: str, count: int) -> list[str]:
    """`count` colours at equal distances along the ramp of a theme, as #rrggbb."""
    ramp = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in RAMPS[theme]]
    return [_at(ramp, index * (len(ramp) - 1) / max(1, count - 1)) for index in range(count)]


def _at(ramp: Sequence[Sequence[int]], position: float) -> str:
    left = min(int(position), len(ramp) - 2)
    part = position - left
    channels = (round((1 - part) * a + part * b) for a, b in zip(ramp[left], ramp[left + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in channels)
