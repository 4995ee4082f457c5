"""Schemas: keys in the stated order, nothing that grammar engines refuse, and xgrammar takes both."""

import json
from typing import Any

import pytest

from mgh_ds.records.levels import LEVELS
from mgh_ds.synthesis.schemas import LEVEL_OF, sample_schema, task_schema, verdict_schema

SCHEMAS = {"tasks": task_schema(10), "samples": sample_schema(), "verdicts": verdict_schema()}
KEYS = ["query", "positive", "hard_negative", "near_negative", "far_negative", "easy_negative"]
REFUSED = {"uniqueItems", "contains", "multipleOf"}
COSTLY = {"maxLength"}


def words_of(schema: Any) -> set[str]:
    """Every key at every depth."""
    if isinstance(schema, dict):
        return set(schema).union(*map(words_of, schema.values()))
    return set().union(*map(words_of, schema)) if isinstance(schema, list) else set()


def test_a_sample_is_written_in_the_stated_order() -> None:
    schema = json.loads(json.dumps(sample_schema()))
    assert list(schema["properties"]) == schema["required"] == KEYS
    assert schema["additionalProperties"] is False


def test_the_levels_go_from_the_hardest_to_the_easiest() -> None:
    assert list(LEVEL_OF) == KEYS[2:]
    assert list(LEVEL_OF.values()) == list(reversed(LEVELS))


def test_a_task_list_has_exactly_as_many_as_asked() -> None:
    tasks = task_schema(7)["properties"]["tasks"]
    assert (tasks["minItems"], tasks["maxItems"]) == (7, 7)


@pytest.mark.parametrize("stage", SCHEMAS)
def test_no_word_that_engines_refuse_or_that_slows_them(stage: str) -> None:
    assert not words_of(SCHEMAS[stage]) & (REFUSED | COSTLY)


@pytest.mark.parametrize(
    ("stage", "answer", "fits"),
    [
        ("samples", dict.fromkeys(KEYS, "Text."), True),
        ("samples", dict.fromkeys(reversed(KEYS), "Text."), False),
        ("samples", dict.fromkeys(KEYS[:-1], "Text."), False),
        ("samples", dict.fromkeys([*KEYS, "note"], "Text."), False),
        ("samples", dict.fromkeys(KEYS, ""), False),
        ("tasks", {"tasks": ["Given a, retrieve b"] * 10}, True),
        ("tasks", {"tasks": ["Given a, retrieve b"] * 9}, False),
        ("tasks", {"tasks": ["Given a, retrieve b"] * 11}, False),
        ("verdicts", {"reason": "It does.", "right_answer": True}, True),
        ("verdicts", {"right_answer": True, "reason": "It does."}, False),
        ("verdicts", {"reason": "It does.", "right_answer": "yes"}, False),
        ("tasks", {"tasks": ["Given a, retrieve b"] * 9 + [""]}, False),
    ],
)
def test_xgrammar_lets_through_what_the_schema_says(stage: str, answer: dict[str, Any], fits: bool) -> None:
    xgrammar = pytest.importorskip("xgrammar")
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    tokenizer = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    compiler = xgrammar.GrammarCompiler(tokenizer)
    # any_whitespace=False is how the engines are told to write.
    grammar = compiler.compile_json_schema(json.dumps(SCHEMAS[stage]), any_whitespace=False)
    matcher = xgrammar.GrammarMatcher(grammar)
    assert (matcher.accept_string(json.dumps(answer)) and matcher.accept_token(256)) is fits
