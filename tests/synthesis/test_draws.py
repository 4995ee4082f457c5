"""Draws are even over any first units, for each name and for subtype, domain and language together, and each
is rebuilt from plan and place alone."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from mgh_ds.records.subtypes import default_probabilities
from mgh_ds.synthesis.draws import Draws, in_turn, spread
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.prepare import Preparer
from mgh_ds.synthesis.slots import PACKAGED_SLOTS, Slot, SlotTable
from mgh_ds.synthesis.units import Task, Unit, make_unit, units_of_shard
from tests.synthesis.recipes import small_plan

TABLE = SlotTable.load(PACKAGED_SLOTS)
LANGUAGES = TABLE.slots["language"]
PROBABILITIES = default_probabilities()
SUBTYPES = list(PROBABILITIES)


def shares(slot: Slot) -> dict[str, float]:
    return {
        value: high - low
        for value, low, high in zip(slot.values, (0, *slot.bounds), slot.bounds, strict=False)
    }


def farthest(drawn: Sequence[str], expected: dict[str, float]) -> float:
    """How far the count of any value is from what its probability promises."""
    counts = Counter(drawn)
    assert counts.keys() <= expected.keys()
    return max(abs(counts[value] - len(drawn) * share) for value, share in expected.items())


def round_0(scope: str, stage: Any, task_ids: Sequence[str], count: int, shards: int) -> list[Unit]:
    """The first units that the shards together work through."""
    return [
        unit
        for shard in range(shards)
        for unit in itertools.islice(
            units_of_shard(scope, stage, task_ids, shard, shards), count // shards + (shard < count % shards)
        )
    ]


def tasks_of(count: int, domains: int) -> list[Task]:
    """Tasks in the recipes' shares of subtypes, the domains in turn."""
    subtypes = [subtype for subtype in SUBTYPES for _ in range(round(10 * PROBABILITIES[subtype]))]
    return [
        Task(f"{number:04x}", subtypes[number % 10], "", f"domain {number // 10 % domains}")
        for number in range(count)
    ]


def test_any_aligned_stretch_is_even_on_both_axes_together() -> None:
    for bits, start in itertools.product(range(9), (0, 256, 4096 - 256, 2**40)):
        count = 2**bits
        places = range(start, start + count)
        points = [(spread("plan", place), spread("plan", place, 1)) for place in places]
        for wide in range(bits + 1):
            boxes = {(int(x * 2**wide), int(y * 2 ** (bits - wide))) for x, y in points}
            assert len(boxes) == count, "one point in each box"


def test_a_place_always_draws_the_same() -> None:
    """Units of finished plans must be rebuilt as they were: this guards the arithmetic itself."""
    places = (0, 1, 255, 256, 10**12)
    first, second = [[f"{spread('plan', place, axis):.6f}" for place in places] for axis in (0, 1)]
    assert first == ["0.553659", "0.053561", "0.245103", "0.797609", "0.003202"]
    assert second == ["0.648388", "0.148199", "0.128749", "0.103391", "0.900689"]
    assert all(0 <= spread(f"{key}", 3, axis) < 1 for key in range(500) for axis in (0, 1))


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_24_brainstorming_calls_have_every_subtype_and_24_domains(shards: int, small: SynthesisPlan) -> None:
    preparer = Preparer(small, "tasks", {})
    for seed in range(20):
        scope = f"plan {seed}"
        preparer.draws = Draws(scope, "tasks")
        found = [preparer.prepare(unit) for unit in round_0(scope, "tasks", [""], 24, shards)]
        assert {one.task.subtype for one in found} == set(SUBTYPES)
        assert farthest([one.task.subtype for one in found], PROBABILITIES) < 2.5
        assert len({one.slots["domain"] for one in found}) == 24
        for name in ("difficulty", "persona", "genre"):
            assert farthest([one.slots[name] for one in found], shares(TABLE.slots[name])) < 2


def test_subtypes_and_domains_meet_each_other_evenly() -> None:
    """Every subtype meets every domain as often as it should, not only each its share."""
    draws, count = Draws("plan", "tasks"), 6400
    units = [make_unit("plan", "tasks", "", index) for index in range(count)]
    subtypes = Slot.of(PROBABILITIES, {})
    pairs = Counter(
        (
            subtypes.at(draws.position(unit, "subtype")),
            TABLE.slots["domain"].at(draws.position(unit, "domain")),
        )
        for unit in units
    )
    for (subtype, share), domain in itertools.product(PROBABILITIES.items(), TABLE.slots["domain"].values):
        # Each is due 10 or 20 times; drawn by themselves, some would come 13 times too seldom or too often.
        assert abs(pairs[subtype, domain] - count * share / 64) <= 4


# The farthest that any language may be from its share: over all, in a subtype, in a domain of a subtype.
# Drawn by themselves they are 7 to 20, 5 to 18, 3 to 5 off with 500 units, 14 to 39,
# 12 to 25, 3 to 5 with 2,560.
@pytest.mark.parametrize(
    ("tasks", "domains", "units", "limits"),
    [(120, 12, 60, (2, 2, 1)), (120, 12, 500, (4.5, 4.5, 2)), (640, 64, 2560, (4, 3, 1.5))],
)
def test_languages_are_even_within_each_subtype_and_domain(
    tasks: int, domains: int, units: int, limits: tuple[float, float, float]
) -> None:
    ordered = in_turn("plan", tasks_of(tasks, domains))
    draws, of = Draws("plan", "samples", ordered), {task.task_id: task for task in ordered}
    drawn: dict[tuple[str, ...], list[str]] = {}
    for unit in round_0("plan", "samples", list(of), units, 4):
        task, language = of[unit.task_id], LANGUAGES.at(draws.position(unit, "language"))
        for cell in ((), (task.subtype,), (task.subtype, task.domain)):
            drawn.setdefault(cell, []).append(language)
    for cell, languages in drawn.items():
        assert farthest(languages, shares(LANGUAGES)) <= limits[len(cell)], cell


def test_a_tasks_languages_follow_each_other_evenly() -> None:
    tasks = tasks_of(89, 9)  # a number to which the golden ratio is all but a multiple
    draws = Draws("plan", "samples", in_turn("plan", tasks))
    for task in tasks[:20]:
        units = [make_unit("plan", "samples", task.task_id, index) for index in range(40)]
        languages = [LANGUAGES.at(draws.position(unit, "language")) for unit in units]
        assert farthest(languages, shares(LANGUAGES)) < 2.5


def test_every_stretch_of_the_tasks_order_has_its_share_of_each_subtype() -> None:
    tasks = tasks_of(200, 5)
    ordered = in_turn("plan", tasks)
    assert sorted(ordered, key=tasks.index) == tasks
    assert in_turn("plan", reversed(tasks)) == ordered != in_turn("another", tasks)
    for start, count in itertools.product(range(0, 160, 8), (10, 20, 40)):
        stretch = [task.subtype for task in ordered[start : start + count]]
        assert farthest(stretch, PROBABILITIES) < 4


def test_names_that_do_not_belong_together_meet_at_random() -> None:
    names, count = ("register", "clarity", "focus", "language"), 8192
    tasks = in_turn("plan", tasks_of(64, 6))
    draws = Draws("plan", "samples", tasks)
    units = [make_unit("plan", "samples", tasks[n % 64].task_id, n // 64) for n in range(count)]
    at = {name: [int(4 * draws.position(unit, name)) for unit in units] for name in names}
    for first, second in itertools.combinations(names, 2):
        cells = Counter(zip(at[first], at[second], strict=True))
        chi_square = math.fsum((cells[cell] - count / 16) ** 2 for cell in cells) / (count / 16)
        assert len(cells) == 16
        assert chi_square < 37.7, (first, second)  # 15 degrees of freedom, 0.001


def test_shards_share_the_places_out_and_none_has_a_kind_to_itself() -> None:
    tasks = in_turn("plan", tasks_of(200, 5))
    of = {task.task_id: task for task in tasks}
    for shards in (1, 2, 5, 10):
        streams = [
            list(itertools.islice(units_of_shard("plan", "samples", list(of), shard, shards), 1000 // shards))
            for shard in range(shards)
        ]
        places = {(unit.index, unit.task_id) for stream in streams for unit in stream}
        assert places == set(itertools.product(range(5), of))
        for stream in streams:
            subtypes = [of[unit.task_id].subtype for unit in stream]
            assert farthest(subtypes, PROBABILITIES) < 5 * math.sqrt(1000 / shards * 0.2)
        later = units_of_shard("plan", "samples", list(of), 0, shards, start=40)
        assert next(later) == streams[0][40]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SynthesisPlan:
    return small_plan(tmp_path_factory.mktemp("small") / "plan")
