"""The levels of negatives that a run's files name: "1" for the easiest and so on; "null" are ungraded."""

from collections.abc import Iterable


def easiest_first(levels: Iterable[str]) -> list[str]:
    """Each level once, graded ones by number, then the rest by name."""
    return sorted(set(levels), key=lambda level: (not level.isdecimal(), _number(level), level))


def hardest(levels: Iterable[str]) -> str | None:
    """The hardest of the graded levels, or None where no level is graded."""
    return max(filter(str.isdecimal, levels), key=_number, default=None)


def level_name(level: str) -> str:
    return "ungraded" if level == "null" else f"level {level}"


def level_title(level: str, levels: Iterable[str]) -> str:
    """A level as the page's table names it, one of several: "level 4 · hard"."""
    if not level.isdecimal():
        return level_name(level)
    difficulty = "easy" if level == "1" else "hard" if level == hardest(levels) else "medium"
    return f"{level_name(level)} · {difficulty}"


def _number(level: str) -> int:
    return int(level) if level.isdecimal() else 0
