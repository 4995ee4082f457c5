"""What a model's answer says, and why it is refused: pure functions of the text, so that every decision can
be made again without the engine.

A reason is a short stable word to count by, with the field it is about: `too_short:positive`.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mgh_ds.records.levels import EASIEST, HARDEST
from mgh_ds.records.schema import Record, Subtype
from mgh_ds.records.subtypes import SUBTYPES
from mgh_ds.synthesis.config import FilterConfig
from mgh_ds.synthesis.levels import LEVEL_OF, NEGATIVE_LEVELS

TEXTS = ("query", "positive", *LEVEL_OF)
MAX_TASK_CHARS = 400
WORD = re.compile(r"\w+")
# Control characters (Unicode's Cc) other than tab and line breaks, and halves of surrogate pairs, which JSON
# can spell and no file can hold.
NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# An answer about the answer instead of the answer; compared in lower case.
META_TALK = (
    "as an ai language model",
    "as an ai model",
    "as an ai,",
    "as a language model",
    "i cannot help",
    "i can't help",
    "i cannot assist",
    "i can't assist",
    "i cannot fulfil",
    "i'm sorry, but i",
    "here is the query",
    "here is the json",
    *(NEGATIVE_LEVELS[level].key.replace("_", " ") for level in (HARDEST, EASIEST)),
    "lorem ipsum",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The texts of an accepted answer. `texts` has the keys of `TEXTS`."""

    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of a negative: whether it is a right answer to its query, and why."""

    right_answer: bool
    reason: str


class Refused(Exception):
    """An answer that cannot be used; its text is the reason."""


def read_tasks(text: str, finish_reason: str) -> list[str]:
    """The task instructions of a stage-1 answer, white space evened out. Raises Refused."""
    answer = _answer(text, finish_reason, {"tasks"})
    if not isinstance(answer["tasks"], list) or not answer["tasks"]:
        raise Refused("wrong_type:tasks")
    tasks = [collapse_spaces(_string("tasks", task)) for task in answer["tasks"]]
    usable = [task for task in tasks if 10 <= len(task) <= MAX_TASK_CHARS and not _is_meta_talk(task.lower())]
    if not usable:
        raise Refused("no_usable_task")
    return usable


def read_sample(text: str, finish_reason: str, subtype: Subtype, filters: FilterConfig) -> Sample:
    """The texts of a stage-2 answer. Raises Refused with the first rule that the answer breaks."""
    answer = _answer(text, finish_reason, set(TEXTS))
    texts = {name: _string(name, answer[name]) for name in TEXTS}
    seen: dict[str, str] = {}
    for name, value in texts.items():
        _check_length(name, value, subtype, filters)
        key = fold(value)
        if not any(character.isalnum() for character in key):
            raise Refused(f"no_words:{name}")
        if key in seen:
            raise Refused(f"repeats_{seen[key]}:{name}")
        seen[key] = name
    if _is_meta_talk("\n".join(seen)):
        raise Refused(f"meta_talk:{next(name for key, name in seen.items() if _is_meta_talk(key))}")
    return Sample(texts)


def read_verdict(text: str, finish_reason: str) -> Verdict:
    """A judge's verdict on one negative. Raises Refused."""
    answer = _answer(text, finish_reason, {"reason", "right_answer"})
    if not isinstance(answer["right_answer"], bool):
        raise Refused("wrong_type:right_answer")
    return Verdict(answer["right_answer"], collapse_spaces(_string("reason", answer["reason"])))


def record_of(
    sample: Sample, unit_id: str, subtype: Subtype, instruction: str, language: str, source: dict[str, str]
) -> Record:
    """The training record of an accepted sample. Raises Refused if a record may not be so."""
    values = {
        "id": unit_id,
        "task": {"kind": SUBTYPES[subtype].kind, "subtype": subtype, "instruction": instruction},
        "language": language,
        "query": sample.texts["query"],
        "positive": sample.texts["positive"],
        "negatives": [{"text": sample.texts[name], "level": level} for name, level in LEVEL_OF.items()],
        "source": source,
    }
    try:
        return Record.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise Refused(f"no_record:{first['type']}") from None


def collapse_spaces(text: str) -> str:
    """Runs of white space become one space."""
    return " ".join(text.split())


def fold(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends: equal for texts that differ in nothing that
    counts."""
    return " ".join(text.lower().split()).strip(" .,;:!?…\"'“”«»。！？")


def normalise(text: str) -> str:
    """Words alone, in lower case and compatibility form."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def _answer(text: str, finish_reason: str, keys: set[str]) -> dict[str, Any]:
    if finish_reason != "stop":
        raise Refused(f"finish:{finish_reason}")
    try:
        answer = json.loads(text, strict=False)  # grammars let line breaks into strings
    except (ValueError, RecursionError):
        raise Refused("not_json") from None
    if not isinstance(answer, dict) or answer.keys() != keys:
        raise Refused("wrong_keys")
    return answer


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Refused(f"wrong_type:{name}")
    text = value.strip()
    if not text:
        raise Refused(f"empty:{name}")
    if NOT_TEXT.search(text):
        raise Refused(f"not_text:{name}")
    return text


def _is_meta_talk(lower: str) -> bool:
    return any(phrase in lower for phrase in META_TALK)


def _check_length(name: str, text: str, subtype: Subtype, filters: FilterConfig) -> None:
    traits = SUBTYPES[subtype]
    least, most = getattr(filters, f"{traits.query if name == 'query' else traits.document}_chars")
    if len(text) < least:
        raise Refused(f"too_short:{name}")
    if len(text) > most:
        raise Refused(f"too_long:{name}")
