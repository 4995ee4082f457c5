"""JSON schemas of the answers: what engines are made to write, key by key.

Grammar engines follow the order of `properties`, so negatives are written after the positive whose length
and style they match. Only what xgrammar takes is used; upper bounds of lengths cost it several times more for
each token, so lengths are checked afterwards.
"""

from typing import Any

from mgh_ds.synthesis.levels import LEVEL_OF


def task_schema(count: int) -> dict[str, Any]:
    """Stage 1: `{"tasks": [instruction, …]}` with exactly `count` instructions."""
    tasks = {"type": "array", "items": _text(), "minItems": count, "maxItems": count}
    return _object({"tasks": tasks})


def sample_schema() -> dict[str, Any]:
    """Stage 2: a query, its positive, and a negative of each level, hardest first."""
    return _object({key: _text() for key in ("query", "positive", *LEVEL_OF)})


def verdict_schema() -> dict[str, Any]:
    """A judge's answer: the reason first, so that the verdict follows from it."""
    return _object({"reason": _text(), "right_answer": {"type": "boolean"}})


def _text() -> dict[str, Any]:
    return {"type": "string", "minLength": 1}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
