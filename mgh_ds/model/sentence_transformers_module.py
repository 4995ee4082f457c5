"""What sentence-transformers loads for a folder that `export` wrote: tokenizer, backbone and pooling in one.

They are not split into a Transformer and a Pooling because ATA needs what the attention saw, and only token
states are handed from one module to the next.

The class comes from this installed package; no code travels with the folder. From version 6 on
sentence-transformers asks for consent even so: `SentenceTransformer(folder, trust_remote_code=True)`. Before,
`SentenceTransformer(folder)` is enough.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule

from mgh_ds.common.errors import MghError
from mgh_ds.model.batches import PaddedBatch
from mgh_ds.model.embedder import EmbeddingModel, load_model
from mgh_ds.model.export import write_model
from mgh_ds.model.settings import read_settings
from mgh_ds.model.tokens import Tokenizer


class AtaEmbedder(InputModule):
    """Texts in, unit vectors out, as `mgh_ds.Encoder` computes them.

    A `prompt` is what precedes the text, spelled out (`"Instruct: …\\nQuery: "`). Like an instruction, it is
    pooled only if the model pools instructions.
    """

    def __init__(self, model: EmbeddingModel, text_tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.text_tokenizer = text_tokenizer

    @property
    def tokenizer(self) -> Any:
        return self.text_tokenizer.backend

    @property
    def max_seq_length(self) -> int:
        return self.text_tokenizer.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.text_tokenizer.max_length = value

    def get_embedding_dimension(self) -> int:
        return self.model.dim

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        """The tensors of a `PaddedBatch`, by name."""
        if not all(isinstance(text, str) for text in inputs):
            raise MghError("this model embeds strings only")
        return self.text_tokenizer.tokenize_after([prompt or ""] * len(inputs), inputs)._asdict()

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        batch = PaddedBatch(*(features[name] for name in PaddedBatch._fields))
        features["sentence_embedding"] = self.model(batch)
        return features

    @classmethod
    def load(
        cls, model_name_or_path: str, model_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> "AtaEmbedder":
        folder = Path(model_name_or_path)
        dtype = str((model_kwargs or {}).get("dtype", "float32")).removeprefix("torch.")
        # Padded: sentence-transformers hands tensors around by name and counts texts by their first axis.
        return cls(*load_model(folder, read_settings(folder), dtype, padding_free=False))  # type: ignore[arg-type]

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        write_model(self.model, self.text_tokenizer, Path(output_path))
