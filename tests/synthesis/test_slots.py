"""Slots: draws follow the tables, are independent of one another, and a faulty table is refused by name."""

import hashlib
import math
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.slots import PACKAGED_SLOTS, Slot, SlotTable
from tests.synthesis.recipes import at

SMALL = """
slots:
  language:
    en: {probability: 0.5, label: English}
    de: {probability: 0.3, label: German}
    zh-Hant: {probability: 0.2, label: Chinese}
  register: {formal: 0.9, plain: 0.1}
  domain: [astronomy, baking, law]
stages:
  tasks: [domain]
  samples: [language, register]
"""


def unit_ids(count: int) -> list[str]:
    return [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(count)]


def table_of(folder: Path, text: str = SMALL) -> SlotTable:
    path = folder / "slots.yaml"
    path.write_text(text, encoding="utf-8")
    return SlotTable.load(path)


def chi_square(counts: list[int], expected: list[float]) -> float:
    return math.fsum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))


@pytest.mark.parametrize(
    ("stage", "name", "probabilities"),
    [
        ("samples", "language", {"en": 0.5, "de": 0.3, "zh-Hant": 0.2}),
        ("samples", "register", {"formal": 0.9, "plain": 0.1}),
        ("tasks", "domain", {"astronomy": 1 / 3, "baking": 1 / 3, "law": 1 / 3}),
    ],
)
def test_draws_follow_the_probabilities(
    tmp_path: Path, stage: str, name: str, probabilities: dict[str, float]
) -> None:
    table, count = table_of(tmp_path), 20_000
    drawn = [table.draw(stage, at(unit_id))[name] for unit_id in unit_ids(count)]
    assert set(drawn) <= probabilities.keys()
    found = [drawn.count(value) for value in probabilities]
    # At most two degrees of freedom: 13.8 is passed by one table in a thousand, and the ids are fixed.
    assert chi_square(found, [count * share for share in probabilities.values()]) < 13.8


def test_draws_of_two_slots_are_independent(tmp_path: Path) -> None:
    table, count = table_of(tmp_path), 20_000
    pairs = [tuple(table.draw("samples", at(unit_id)).values()) for unit_id in unit_ids(count)]
    shares = {("en", 0.5), ("de", 0.3), ("zh-Hant", 0.2)}, {("formal", 0.9), ("plain", 0.1)}
    cells = [((a, b), p * q) for a, p in sorted(shares[0]) for b, q in sorted(shares[1])]
    found = [pairs.count(cell) for cell, _ in cells]
    assert chi_square(found, [count * share for _, share in cells]) < 20.5  # 5 degrees of freedom, 0.001


def test_a_new_slot_changes_no_other_draw(tmp_path: Path) -> None:
    before = table_of(tmp_path)
    text = SMALL.replace("slots:\n", "slots:\n  mood: [glad, grave]\n", 1)
    after = table_of(tmp_path, text.replace("[language, register]", "[mood, language, register]"))
    for unit_id in unit_ids(500):
        drawn = after.draw("samples", at(unit_id))
        assert drawn.pop("mood") in ("glad", "grave")
        assert drawn == before.draw("samples", at(unit_id))


def test_a_unit_always_draws_the_same() -> None:
    """Units of finished plans must be rebuilt as they were: this guards the arithmetic itself."""
    slot = Slot.of({"a": 0.25, "b": 0.5, "c": 0.25}, {})
    assert [slot.at(position) for position in (0.0, 0.2499, 0.25, 0.7499, 0.75)] == ["a", "a", "b", "b", "c"]
    table = SlotTable({"language": slot}, {"tasks": ("language",), "samples": ("language",)})
    drawn = [table.draw("samples", at(unit_id))["language"] for unit_id in unit_ids(12)]
    assert "".join(drawn) == "baacaabbccab"


def test_every_number_below_one_falls_on_a_value(tmp_path: Path) -> None:
    below_one = math.nextafter(1.0, 0.0)
    tenths = {str(number): 0.1 for number in range(10)}  # their running sum ends at 0.9999999999999999
    assert Slot.of(tenths, {}).at(below_one) == "9"
    assert Slot.of({"a": 1.0, "never": 0.0}, {}).at(below_one) == "a"
    assert Slot.of({"never": 0.0, "a": 1.0}, {}).at(0.0) == "a"
    short = table_of(tmp_path, SMALL.replace("plain: 0.1", "plain: 0.0999995"))
    assert short.slots["register"].at(below_one) == "plain"


def test_labels_are_what_prompts_say(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    drawn = {"language": "zh-Hant", "register": "plain", "domain": "law"}
    assert table.labels(drawn) == {"language": "Chinese", "register": "plain", "domain": "law"}
    with pytest.raises(MghError, match="do not know 'fr'"):
        table.labels({"language": "fr"})
    with pytest.raises(MghError, match="do not know 'mood'"):
        table.labels({"mood": "glad"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plain: 0.1", "plain: 0.2", r"slot `register`: the probabilities must sum to 1, they sum to 1\.1"),
        ("plain: 0.1", "plain: -0.1", r"slot `register`, value `plain`: .* from 0 to 1, found -0\.1"),
        ("plain: 0.1", "plain: .nan", "slot `register`, value `plain`: .* found nan"),
        ("plain: 0.1", "plain: true", "slot `register`, value `plain`: .* found True"),
        ("plain: 0.1", "plain: '0.1'", "slot `register`, value `plain`: .* found '0.1'"),
        ("plain: 0.1", "formal: 0.1", "line 7: the key `formal` stands twice"),
        ("  domain:", "  register:", "line 8: the key `register` stands twice"),
        ("plain: 0.1", "[a]: 0.1", "line 7: .* or is no text"),
        (
            "label: German",
            "words: German",
            "value `de`: expected `probability` and `label`, found probability",
        ),
        ("label: German", "label: ' '", "value `de`: the label must be text"),
        ("de:", "no:", "slot `language`: a value must be text, found False; .* need quotes"),
        ("de:", "german_:", "slot `language`: `german_` is no language tag"),
        ("[astronomy, baking, law]", "[]", "slot `domain` must hold values .* it has none"),
        ("[astronomy, baking, law]", "law", "slot `domain` must hold values"),
        ("[astronomy, baking, law]", "[law, 5]", "slot `domain`: a value must be text, found 5"),
        ("[astronomy, baking, law]", "[law, law]", "slot `domain`: the value `law` stands twice"),
        ("  language:", "  tongue:", "the slot `language` is missing"),
        ("  domain:", "  The domain:", "slot `The domain`: names are lower-case"),
        ("[language, register]", "[register]", "`stages.samples` must draw `language`"),
        ("[language, register]", "[language]", "slot `register` is drawn in no stage"),
        (
            "[language, register]",
            "[language, regster]",
            "`regster`, which is no slot; did you mean `register`",
        ),
        ("[language, register]", "[language, language]", "names `language` twice"),
        ("[language, register]", "language", "`stages.samples` must be a list"),
        ("  tasks: [domain]\n", "", "`stages` must hold the lists `tasks` and `samples`"),
        ("stages:", "steps:", "`slots` and `stages` and nothing else, found: slots, steps"),
        ("stages:", "notes: 1\nstages:", "`slots` and `stages` and nothing else, found: slots, notes"),
        ("[astronomy, baking, law]", "[astronomy", "not valid YAML"),
        ("[astronomy, baking, law]", "!!python/name:os.system ''", "not valid YAML"),
        (SMALL, "", "`slots` and `stages` and nothing else, found: NoneType"),
        (SMALL, "slots: {}\nstages: {}", "`slots` must hold at least the slot `language`"),
    ],
)
def test_a_faulty_table_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(MghError, match=message) as refusal:
        table_of(tmp_path, SMALL.replace(old, new, 1))
    assert str(tmp_path / "slots.yaml") in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MghError, match=r"none\.yaml: No such file"):
        SlotTable.load(tmp_path / "none.yaml")


def test_the_packaged_tables_are_wide() -> None:
    table = SlotTable.load(PACKAGED_SLOTS)
    assert len(table.slots["domain"].values) >= 40
    assert len(table.slots["language"].values) >= 20
    assert "domain" in table.stages["tasks"]
    for slot in table.slots.values():
        assert len(set(slot.labels.values())) == len(slot.labels), (
            "two values that a prompt cannot tell apart"
        )
