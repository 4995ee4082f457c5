"""Tasks without repetitions: the fast search finds what comparing all pairs finds."""

import itertools
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mgh_ds.records.schema import Subtype
from mgh_ds.synthesis.tasks import distinct_tasks

VOCABULARY = ["given", "a", "question", "claim", "retrieve", "the", "passage", "answer"]
SUBTYPES: list[Subtype] = ["sts", "short-long"]
INSTRUCTIONS = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=9).map(" ".join)
CANDIDATES = st.lists(st.tuples(st.sampled_from(SUBTYPES), INSTRUCTIONS, st.just("")), max_size=30)


def similarity(first: str, second: str) -> float:
    one, other = two_grams(first), two_grams(second)
    return len(one & other) / len(one | other)


def two_grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(itertools.pairwise(words)) or {(word,) for word in words}


@given(CANDIDATES, st.sampled_from([0.3, 0.5, 0.7, 0.75, 1.0]))
def test_no_two_are_near_and_whatever_was_left_out_is_near_one(
    candidates: list[tuple[Subtype, str, str]], threshold: float
) -> None:
    kept = distinct_tasks(candidates, threshold)
    assert [task.task_id for task in kept] == sorted(task.task_id for task in kept)
    for first, second in itertools.combinations(kept, 2):
        if first.subtype == second.subtype:
            assert similarity(first.instruction, second.instruction) < threshold
    for subtype, text, _ in candidates:
        same = [task.instruction for task in kept if task.subtype == subtype]
        assert any(similarity(text, other) >= threshold for other in same)


@given(CANDIDATES, st.integers())
def test_the_order_of_the_answers_does_not_matter(
    candidates: list[tuple[Subtype, str, str]], seed: int
) -> None:
    shuffled = Random(seed).sample(candidates, len(candidates))
    assert distinct_tasks(candidates, 0.7) == distinct_tasks(shuffled, 0.7)
