"""Embeddings of (instruction, text) pairs, each distinct pair encoded once."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mgh_ds.model.encoder import require_finite

# Texts go to the encoder in groups of so many batches or a little more, so that a progress bar moves.
BATCHES_A_CALL = 4


class TextEncoder(Protocol):
    """What an evaluation asks of an encoder: an `Encoder`, or one whose texts several processes encode."""

    name: str
    origin: Mapping[str, Any]

    @property
    def use_instructions(self) -> bool: ...

    @property
    def prompt(self) -> str: ...

    @property
    def pooling(self) -> str: ...

    @property
    def max_length(self) -> int: ...

    def encode(
        self, texts: Sequence[str], instruction: str | None = None, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """float32 [len(texts), dim], unit length."""


class Input(NamedTuple):
    """A text and the instruction it is read under (None: no instruction)."""

    instruction: str | None
    text: str


class Embeddings:
    """Encodes inputs through an encoder: repeated ones once, those of like length together.

    `remember` keeps every vector for later calls. That suits held-out tasks, which share their texts, and not
    a corpus of millions, whose embeddings mteb drops piece by piece. `parallel` is how many batches the
    encoder works on at the same time: a call brings at least as many. `bar` counts texts; its total grows as
    they come.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        batch_size: int = 64,
        parallel: int = 1,
        remember: bool = False,
        bar: "tqdm[Any] | None" = None,
    ) -> None:
        self.encoder = encoder
        self.batch_size = batch_size
        self._call_size = batch_size * parallel * -(-BATCHES_A_CALL // parallel)
        self.bar = tqdm(disable=True) if bar is None else bar
        self._remembered: dict[Input, NDArray[np.float32]] | None = {} if remember else None

    def __call__(self, inputs: Sequence[Input]) -> NDArray[np.float32]:
        """float32 [len(inputs), dim], unit length. Raises MghError if the encoder returns NaN or infinity."""
        known = {} if self._remembered is None else self._remembered
        missing = set(inputs) - known.keys()
        self.bar.reset(total=len(missing))
        for instruction, texts in self._calls(missing):
            vectors = self.encoder.encode(texts, instruction=instruction, batch_size=self.batch_size)
            require_finite(texts, vectors, lambda: "the model's weights or its precision are at fault")
            known.update(zip((Input(instruction, text) for text in texts), vectors, strict=True))
            self.bar.update(len(texts))
        return np.stack([known[item] for item in inputs])

    def _calls(self, inputs: set[Input]) -> Iterator[tuple[str | None, list[str]]]:
        """Calls to make: texts of one instruction, longest first, so that memory peaks at the start. All but
        the last of an instruction are whole batches, so their number decides nothing else."""
        ordered = sorted(inputs, key=lambda item: (item.instruction or "", -len(item.text), item.text))
        size = self._call_size
        for instruction, group in groupby(ordered, key=lambda item: item.instruction):
            texts = [item.text for item in group]
            for start in range(0, len(texts), size):
                yield instruction, texts[start : start + size]
