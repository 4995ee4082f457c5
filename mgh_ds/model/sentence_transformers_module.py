"""The class that sentence-transformers loads for a folder that `export` wrote: tokenizer, backbone and pooling in one module.

It is one module and not two because ATA pooling needs what the attention saw, which sentence-transformers does not hand from its
Transformer module to its Pooling module.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule

from mgh_ds.errors import MghError
from mgh_ds.model.config import DType
from mgh_ds.model.embedder import EmbeddingModel, load_model
from mgh_ds.model.export import export
from mgh_ds.model.settings import read_settings
from mgh_ds.model.tokens import TokenBatch, Tokenizer


class AtaEmbedder(InputModule):
    """Texts in, unit vectors out, exactly as `mgh_ds.Encoder`.

    A `prompt` is what precedes the text, as written (`"Instruct: …\\nQuery: "`); its tokens are pooled only if the exported
    model pools its instructions.
    """

    def __init__(self, model: EmbeddingModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.texts_to_tokens = tokenizer

    @property
    def tokenizer(self) -> Any:
        return self.texts_to_tokens.backend

    @property
    def max_seq_length(self) -> int:
        return self.texts_to_tokens.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.texts_to_tokens.max_length = value

    def get_embedding_dimension(self) -> int:
        return self.model.dim

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, torch.Tensor]:
        """The tensors of a `TokenBatch`, by name."""
        if not all(isinstance(text, str) for text in inputs):
            raise MghError("this model embeds strings only")
        return self.texts_to_tokens.tokenize_after(inputs, [prompt or ""] * len(inputs))._asdict()

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        batch = TokenBatch(*(features[name] for name in TokenBatch._fields))
        features["sentence_embedding"] = self.model(*batch)
        return features

    @classmethod
    def load(cls, model_name_or_path: str, model_kwargs: dict[str, Any] | None = None, **_: Any) -> "AtaEmbedder":
        folder = Path(model_name_or_path)
        dtype: DType = (model_kwargs or {}).get("dtype", "float32")
        return cls(*load_model(folder, read_settings(folder), dtype))

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """sentence-transformers has made `output_path` and fills it with more files, so `export`'s are moved there."""
        folder = Path(output_path)
        staged = folder / "exported"
        export(self.model, self.texts_to_tokens, staged, card="")
        for path in staged.iterdir():
            path.replace(folder / path.name)
        staged.rmdir()
