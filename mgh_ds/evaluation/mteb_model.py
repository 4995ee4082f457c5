"""Our Encoder as a model that mteb can evaluate."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.search_wrappers import SearchEncoderWrapper
from mteb.types import PromptType
from numpy.typing import NDArray

from mgh_ds.evaluation.encoding import Embeddings, Input
from mgh_ds.evaluation.prompts import NO_PROMPTS, Prompts, prompt_for

INSTRUCTION_COLUMN = "task_instruction"
"""Each text's own instruction ("" for none), as held-out records bring."""


LARGEST_BLOCK = 50_000
"""Documents that are encoded and scored at once in a search over a whole corpus; mteb's own number."""
SCORES_AT_ONCE = 2**27
"""Most scores of a block, queries times documents: 512 MiB."""


class EncoderModel(AbsEncoder):
    """An mteb encoder around `Embeddings` that reads the texts of one task under its `prompts`."""

    def __init__(self, embeddings: Embeddings, prompts: Prompts = NO_PROMPTS) -> None:
        self.embeddings = embeddings
        self.prompts = prompts
        # An empty description: mteb must not ask the hub about a model that may exist on this disk only.
        self.mteb_model_meta = ModelMeta.create_empty({"similarity_fn_name": ScoringFunction.COSINE})

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **_: Any) -> NDArray[np.float32]:
        """float32 [n, dim] for the `text` column of mteb's batches, in their order."""
        side = None if prompt_type is None else prompt_type.value
        return self.embeddings([item for batch in inputs for item in self._inputs(batch, side)])

    def _inputs(self, batch: dict[str, list[str]], side: str | None) -> Iterator[Input]:
        instructions: list[str | None]
        if self.prompts["source"] == "records":
            instructions = [instruction or None for instruction in batch[INSTRUCTION_COLUMN]]
        else:
            instructions = [prompt_for(self.prompts, side)] * len(batch["text"])
        return map(Input, instructions, batch["text"])


class BlockSearch(SearchEncoderWrapper):
    """mteb's search over the whole corpus, which encodes and scores a block of documents after the other and
    keeps the best of each query. The block shrinks where there are many queries, so that the scores in
    memory are bounded whatever the corpus and the number of queries."""

    def search(self, queries: Any, **options: Any) -> Any:
        """mteb's: query id → document id → score, for the best documents."""
        self.corpus_chunk_size = max(1, min(LARGEST_BLOCK, SCORES_AT_ONCE // max(1, len(queries))))
        return super().search(queries, **options)
