"""Whose turn it is: the source that each step draws its batch from, by weights and up to caps of epochs."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.sources import Sources
from mgh_ds.curriculum.stages import Stage


class Stream(NamedTuple):
    """The epochs of a source over the stages that train on the same records of it.

    `origin` is the first of these stages, `batches` how many batches an epoch has.
    """

    source: int
    origin: int
    batches: int


class Turn(NamedTuple):
    """A step's stream, and how many batches earlier steps took from it."""

    stream: Stream
    before: int


def interleave(weights: Mapping[int, Fraction]) -> Iterator[int]:
    """A key of `weights` for every step, without end, in the shares of the weights.

    Of the first n steps a key with share w gets between floor(n · w) and ceil(n · w), for every n. Its turn j
    (from 0) may come at step floor(j / w) and must come before step ceil((j + 1) / w); of those that may
    come, that which must come first does, on a tie that of the first key. Such windows can always be kept
    (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", Algorithmica 15, 1996), and whoever takes
    the earliest deadline keeps them, as all turns are equally long.
    """
    scale = math.lcm(*(weight.denominator for weight in weights.values()))
    whole = {key: int(weight * scale) for key, weight in weights.items()}
    total, turns = sum(whole.values()), dict.fromkeys(whole, 0)
    for step in itertools.count():
        due = {
            key: -(-(turns[key] + 1) * total // weight)
            for key, weight in whole.items()
            if turns[key] * total // weight <= step
        }
        key = min(due, key=due.__getitem__)
        turns[key] += 1
        yield key


def take_turns(
    stages: Sequence[Stage], sources: Sources, streams: Sequence[Mapping[int, Stream]]
) -> list[Turn]:
    """The turn of every step.

    The shares hold from one step on as long as the same sources take part with the same weights. A source
    leaves when its next batch would be more than its `max_epochs`, and where a stage has no record of it.

    Args:
        streams: of each stage, by the source's number; a source that has no record there is left out.

    Raises MghError where every source has reached its cap before the last step, and for a source that gets
    no step at all.
    """
    turns: list[Turn] = []
    drawn: Counter[Stream] = Counter()
    weights: dict[int, Fraction] = {}
    order = interleave({0: Fraction(1)})
    for stage, found in zip(stages, streams, strict=True):
        left = {number: _left(sources, number, drawn, stream, stage) for number, stream in found.items()}
        able = {number: _weight(sources, stream) for number, stream in found.items() if left[number] > 0}
        for _ in range(stage.steps):
            if not able:
                raise MghError(_all_used(sources, drawn, stage, turns, stages))
            if able != weights:
                weights, order = able, interleave(able)
            stream = found[next(order)]
            turns.append(Turn(stream, drawn[stream]))
            drawn[stream] += 1
            left[stream.source] -= 1
            if not left[stream.source]:
                able = {number: weight for number, weight in able.items() if number != stream.source}
    for number in range(len(sources.configs)):
        if not any(stream.source == number for stream in drawn):
            raise MghError(_never(sources, number, streams, len(turns)))
    return turns


def epochs_of(number: int, drawn: Mapping[Stream, int]) -> Fraction:
    """How often the batches drawn go through a source, all its streams together."""
    parts = (Fraction(count, stream.batches) for stream, count in drawn.items() if stream.source == number)
    return sum(parts, Fraction(0))


def exact(value: float) -> Fraction:
    """The number as it is written: 0.1 is a tenth."""
    return Fraction(repr(value))


def _weight(sources: Sources, stream: Stream) -> Fraction:
    """Without weights, such that all sources have been gone through equally often."""
    weight = sources.configs[stream.source].weight
    return Fraction(stream.batches) if weight is None else exact(weight)


def _left(sources: Sources, number: int, drawn: Mapping[Stream, int], stream: Stream, stage: Stage) -> int:
    """How many batches the stage may draw from a source."""
    most = sources.configs[number].max_epochs
    if most is None:
        return stage.steps
    return math.floor((exact(most) - epochs_of(number, drawn)) * stream.batches)


def _all_used(
    sources: Sources,
    drawn: Mapping[Stream, int],
    stage: Stage,
    turns: Sequence[Turn],
    stages: Sequence[Stage],
) -> str:
    steps = sum(each.steps for each in stages)
    used = ", ".join(
        f"{source.path} {sum(count for stream, count in drawn.items() if stream.source == number):,} batches "
        f"of at most {source.max_epochs:g} epochs"
        for number, source in enumerate(sources.configs)
        if source.max_epochs is not None
    )
    return (
        f"data.train: in stage `{stage.name}` every source has reached its max_epochs after {len(turns):,} "
        f"of {steps:,} steps ({used}): lower training.steps, raise a max_epochs, or set one to null"
    )


def _never(sources: Sources, number: int, streams: Sequence[Mapping[int, Stream]], steps: int) -> str:
    batches = [found[number].batches for found in streams if number in found]
    source = sources.configs[number]
    if not batches:
        why = "none of its records has a level of a stage, and missing_level is skip: set its levels"
    elif source.max_epochs is not None and exact(source.max_epochs) * max(batches) < 1:
        why = (
            f"an epoch has {max(batches):,} batches, and max_epochs {source.max_epochs:g} is less than one "
            "of them: raise it"
        )
    else:
        why = "train longer, raise its weight, or leave it out"
    return f"{sources.name(number)} gets none of the {steps:,} steps: {why}"
