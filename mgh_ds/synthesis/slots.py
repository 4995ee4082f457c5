"""Slots: the tables of `slots.yaml`, from which every unit draws what its prompt is about.

    slots:
      language:
        en: {probability: 0.6, label: English}   # the label is what the prompt says
        de: {probability: 0.4, label: German}
      register: {formal: 0.7, colloquial: 0.3}   # the value is its own label
      domain: [astronomy, baking]                # equal probabilities
    stages:
      tasks: [domain]                            # drawn for the brainstorming of tasks
      samples: [language, register]              # drawn for the writing of samples

Adding a value, such as a language, needs a line in that file; a new slot also needs a place in a template.
"""

import bisect
import itertools
import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import TypeAdapter, ValidationError

from mgh_ds.common.errors import MghError
from mgh_ds.common.problems import nearest
from mgh_ds.records.schema import Language
from mgh_ds.synthesis.units import STAGES, SynthesisStage

PACKAGED_SLOTS = Path(__file__).with_name("slots.yaml")
SUM_TOLERANCE = 1e-6
LANGUAGE = TypeAdapter(Language)


@dataclass(frozen=True)
class Slot:
    """One table: its values that can be drawn, the upper ends of their shares of [0, 1), and what prompts say
    for each value."""

    values: tuple[str, ...]
    bounds: tuple[float, ...]
    labels: dict[str, str]

    @classmethod
    def of(cls, probabilities: dict[str, float], labels: dict[str, str]) -> Self:
        values = tuple(value for value, probability in probabilities.items() if probability > 0)
        total = math.fsum(probabilities.values())
        ends = itertools.accumulate(probabilities[value] / total for value in values)
        # The last bound is 1 whatever rounding made of the sum: every number below 1 falls on a value.
        return cls(values, (*tuple(ends)[:-1], 1.0), labels)

    def at(self, position: float) -> str:
        """The value whose share holds `position`, a number in [0, 1)."""
        return self.values[bisect.bisect_right(self.bounds, position)]


@dataclass(frozen=True)
class SlotTable:
    """All slots, and which are drawn for which stage."""

    slots: dict[str, Slot]
    stages: dict[SynthesisStage, tuple[str, ...]]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file such as the packaged `slots.yaml`.

        Raises MghError naming file, slot and problem.
        """
        try:
            return cls(*_tables(_read(path)))
        except _Problem as problem:
            raise MghError(f"slot tables {path}: {problem}") from None

    def draw(self, stage: SynthesisStage, position: Callable[[str], float]) -> dict[str, str]:
        """The value of each slot of a stage; `position` gives a unit's number in [0, 1) by slot name."""
        return {name: self.slots[name].at(position(name)) for name in self.stages[stage]}

    def labels(self, drawn: dict[str, str]) -> dict[str, str]:
        """What prompts say for the drawn values. Raises MghError for a value that the tables do not have."""
        try:
            return {name: self.slots[name].labels[value] for name, value in drawn.items()}
        except KeyError as error:
            raise MghError(
                f"the slot tables do not know {error}: these values were drawn from other tables: {drawn}"
            ) from None


class _Problem(Exception):
    """What is wrong within the file; `load` adds the file's name."""


class _Loader(yaml.SafeLoader):
    """Safe YAML, plain values only, that refuses a key standing twice, of which PyYAML would keep the last in
    silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in keys:
                raise _Problem(
                    f"line {key.start_mark.line + 1}: the key `{key.value}` stands twice or is no text"
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        return _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise _Problem(f"{error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _Problem(f"not valid YAML: {error}") from None


def _tables(content: Any) -> tuple[dict[str, Slot], dict[SynthesisStage, tuple[str, ...]]]:
    if not isinstance(content, dict) or content.keys() != {"slots", "stages"}:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise _Problem(
            f"the top level must hold `slots` and `stages` and nothing else, found: {found or 'nothing'}"
        )
    tables, stages = content["slots"], content["stages"]
    if not isinstance(tables, dict) or not tables:
        raise _Problem("`slots` must hold at least the slot `language`")
    slots = {_slot_name(name): _slot(name, table) for name, table in tables.items()}
    if "language" not in slots:
        raise _Problem("the slot `language` is missing: records must say their language")
    for key in slots["language"].labels:
        _check_language(key)
    if not isinstance(stages, dict) or stages.keys() != set(STAGES):
        raise _Problem(f"`stages` must hold the lists {' and '.join(f'`{stage}`' for stage in STAGES)}")
    drawn = {stage: _stage(stage, stages[stage], slots) for stage in STAGES}
    if "language" not in drawn["samples"]:
        raise _Problem("`stages.samples` must draw `language`: records must say their language")
    idle = slots.keys() - {name for names in drawn.values() for name in names}
    if idle:
        raise _Problem(f"slot `{min(idle)}` is drawn in no stage: add it to `stages` or remove it")
    return slots, drawn


def _slot_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise _Problem(f"slot `{name}`: names are lower-case letters, digits and _, since templates use them")
    return name


def _slot(name: str, table: Any) -> Slot:
    if not isinstance(table, dict | list) or not table:
        raise _Problem(f"slot `{name}` must hold values with probabilities, or a list of values; it has none")
    if isinstance(table, list):
        values = [_value(name, value) for value in table]
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise _Problem(f"slot `{name}`: the value `{twice}` stands twice")
        return Slot.of(dict.fromkeys(values, 1.0), {value: value for value in values})
    probabilities, labels = {}, {}
    for key, entry in table.items():
        value = _value(name, key)
        probabilities[value], labels[value] = _entry(f"slot `{name}`, value `{value}`", value, entry)
    total = math.fsum(probabilities.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise _Problem(f"slot `{name}`: the probabilities must sum to 1, they sum to {total:.7g}")
    return Slot.of(probabilities, labels)


def _value(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Problem(
            f"slot `{name}`: a value must be text, found {value!r}; numbers and YAML's own words "
            "(no, yes, on, off, null) need quotes"
        )
    return value


def _entry(where: str, value: str, entry: Any) -> tuple[float, str]:
    label = value
    if isinstance(entry, dict):
        if entry.keys() != {"probability", "label"}:
            raise _Problem(f"{where}: expected `probability` and `label`, found {', '.join(map(str, entry))}")
        entry, label = entry["probability"], entry["label"]
        if not isinstance(label, str) or not label.strip():
            raise _Problem(f"{where}: the label must be text, found {label!r}")
    if isinstance(entry, bool) or not isinstance(entry, int | float) or not 0 <= entry <= 1:
        raise _Problem(f"{where}: the probability must be a number from 0 to 1, found {entry!r}")
    return float(entry), label


def _stage(stage: SynthesisStage, names: Any, slots: dict[str, Slot]) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise _Problem(f"`stages.{stage}` must be a list of slot names")
    for name in names:
        if name not in slots:
            hint = nearest(name, slots) or f"; there are: {', '.join(slots)}"
            raise _Problem(f"`stages.{stage}` names `{name}`, which is no slot{hint}")
        if names.count(name) > 1:
            raise _Problem(f"`stages.{stage}` names `{name}` twice")
    return tuple(names)


def _check_language(key: str) -> None:
    try:
        LANGUAGE.validate_python(key)
    except ValidationError:
        raise _Problem(
            f"slot `language`: `{key}` is no language tag; expected BCP 47, such as en or zh-Hant"
        ) from None
