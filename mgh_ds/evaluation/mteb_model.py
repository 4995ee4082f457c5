"""Our Encoder as a model that mteb can evaluate."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.search_wrappers import SearchEncoderWrapper
from mteb.types import PromptType
from numpy.typing import NDArray

from mgh_ds.evaluation.encoding import Embeddings, Input

InstructionFor = Callable[[str, str | None], str | None]
"""Task name and side ("query", "document" or None where mteb does not tell) → the instruction, or None."""

INSTRUCTION_COLUMN = "task_instruction"
"""Each text's own instruction ("" for none), as held-out records bring; it goes before `instruction_for`."""


LARGEST_BLOCK = 50_000
"""Documents that are encoded and scored at once in a search over a whole corpus; mteb's own number."""
SCORES_AT_ONCE = 2**27
"""Most scores of a block, queries times documents: 512 MiB."""


class EncoderModel(AbsEncoder):
    """An mteb encoder around `Embeddings`. `instruction_for=None` means that no text gets an instruction."""

    def __init__(self, embeddings: Embeddings, *, instruction_for: InstructionFor | None = None) -> None:
        self.embeddings = embeddings
        self.instruction_for = instruction_for
        # An empty description: mteb must not ask the hub about a model that may exist on this disk only.
        self.mteb_model_meta = ModelMeta.create_empty({"similarity_fn_name": ScoringFunction.COSINE})

    def encode(
        self, inputs: Any, *, task_metadata: Any, prompt_type: PromptType | None = None, **_: Any
    ) -> NDArray[np.float32]:
        """float32 [n, dim] for the `text` column of mteb's batches, in their order."""
        side = None if prompt_type is None else prompt_type.value
        return self.embeddings(
            [item for batch in inputs for item in self._inputs(batch, task_metadata.name, side)]
        )

    def _inputs(self, batch: dict[str, list[str]], task: str, side: str | None) -> Iterator[Input]:
        if self.instruction_for is None:
            instructions: list[str | None] = [None] * len(batch["text"])
        elif INSTRUCTION_COLUMN in batch:
            instructions = [instruction or None for instruction in batch[INSTRUCTION_COLUMN]]
        else:
            instructions = [self.instruction_for(task, side)] * len(batch["text"])
        return map(Input, instructions, batch["text"])


class BlockSearch(SearchEncoderWrapper):
    """mteb's search over the whole corpus, which encodes and scores a block of documents after the other and
    keeps the best of each query. The block shrinks where there are many queries, so that the scores in
    memory are bounded whatever the corpus and the number of queries."""

    def search(self, queries: Any, **options: Any) -> Any:
        """mteb's: query id → document id → score, for the best documents."""
        self.corpus_chunk_size = max(1, min(LARGEST_BLOCK, SCORES_AT_ONCE // max(1, len(queries))))
        return super().search(queries, **options)
