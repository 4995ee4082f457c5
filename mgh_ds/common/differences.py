"""Where two nested configurations differ, key by key."""

from typing import Any, NamedTuple

NO_KEY = "(no such key)"


class Difference(NamedTuple):
    """A key, its parts joined by dots, and the value on either side: `NO_KEY` where a side has none."""

    key: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.first} → {self.second}"


def differences(first: Any, second: Any, key: str = "") -> list[Difference]:
    """The differences of two nested dictionaries, in the order of the first one's keys, then the second's."""
    if isinstance(first, dict) and isinstance(second, dict):
        return [
            difference
            for name in first | second
            for difference in differences(
                first.get(name, NO_KEY), second.get(name, NO_KEY), f"{key}.{name}" if key else name
            )
        ]
    return [] if first == second else [Difference(key, first, second)]
