"""What sentence-transformers loads for an export that its own modules cannot express (`standard_modules`):
tokenizer, backbone and pooling in one.

They are not split into a Transformer and a Pooling because ATA needs what the attention saw, and only token
states are handed from one module to the next.

The class comes from this installed package; no code travels with the folder. From version 6 on
sentence-transformers asks for consent even so: `SentenceTransformer(folder, trust_remote_code=True)`. Before,
`SentenceTransformer(folder)` is enough.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch
from sentence_transformers.base.modules import InputModule

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import check_length
from mgh_ds.model.batches import PaddedBatch
from mgh_ds.model.config import DType
from mgh_ds.model.embedder import EmbeddingModel, cause_of_nan, load_model
from mgh_ds.model.export import write_model
from mgh_ds.model.settings import read_settings
from mgh_ds.model.tokens import SHORTEST, Tokenizer

# The names that `model_kwargs` may hold.
DTYPE_KEYS = ("dtype", "torch_dtype")


class AtaEmbedder(InputModule):
    """Texts in, unit vectors out, as `mgh_ds.Encoder` computes them.

    A `prompt` is what precedes the text, spelled out (`"Instruct: …\\nQuery: "`). Like an instruction, it is
    pooled only if the model pools instructions, and left out, with a warning, if the model reads none.
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
        if not isinstance(value, int) or value < SHORTEST:
            raise MghError(f"max_seq_length must be a whole number of {SHORTEST} or more, found {value!r}")
        check_length(value, self.model.backbone.config)
        self.text_tokenizer.max_length = value

    def get_embedding_dimension(self) -> int:
        return self.model.dim

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        """The tensors of a `PaddedBatch`, by name."""
        if not all(isinstance(text, str) for text in inputs):
            raise MghError("this model embeds strings only")
        if prompt and not self.text_tokenizer.use_instructions:
            warnings.warn(f"this model reads no instructions: {prompt[:80]!r} is left out", stacklevel=2)
            prompt = None
        return self.text_tokenizer.tokenize_after([prompt or ""] * len(inputs), inputs)._asdict()

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds the embeddings. Raises ValueError if one holds NaN or infinity, except while it trains: what
        is to be done about such a step is the trainer's business."""
        batch = PaddedBatch(*(features[name] for name in PaddedBatch._fields))
        vectors = self.model(batch)
        if not self.training and not vectors.sum().isfinite():  # unit vectors cannot overflow a sum
            lost = int((~vectors.isfinite().all(dim=1)).sum())
            raise ValueError(
                f"the model returned NaN or infinity for {lost} of {len(vectors)} texts: "
                f"{cause_of_nan(self.model)} (in {self.model.backbone.dtype})"
            )
        features["sentence_embedding"] = vectors
        return features

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **_: Any,
    ) -> "AtaEmbedder":
        """The model in a folder, or of that name on the hub or in its cache.

        Of the options for loading `model_kwargs={"dtype": …}` alone means something here: float32 (the
        default), bfloat16, float16, or "auto", the weights' own. Raises MghError for any other, for a model
        that cannot be found, and for what `load_model` refuses.
        """
        options = {"model_kwargs": dict(model_kwargs or {})}
        options |= {"processor_kwargs": processor_kwargs or {}, "config_kwargs": config_kwargs or {}}
        given = [options["model_kwargs"].pop(key, None) for key in DTYPE_KEYS]
        for name, values in options.items():
            if values:
                raise MghError(f"{name} holds {min(values)}, which this model does not heed")
        if backend != "torch":
            raise MghError(f"backend is {backend!r}, but this model runs with torch alone")
        found = cls.load_dir_path(
            model_name_or_path,
            token=token,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
        )
        if found is None:
            raise MghError(f"no model {model_name_or_path!r}: it is neither a folder nor known to the hub")
        folder = Path(found)
        dtype = _dtype(next((value for value in given if value is not None), "float32"), folder)
        # Padded: sentence-transformers hands tensors around by name and counts texts by their first axis.
        return cls(*load_model(folder, read_settings(folder), dtype, padding_free=False))

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        write_model(self.model, self.text_tokenizer, Path(output_path))


def _dtype(given: object, folder: Path) -> DType:
    """The precision that is asked for; "auto" is the one that `folder` was saved in."""
    if given == "auto":
        described = files.read_json(folder / "config.json")
        given = next((described[key] for key in DTYPE_KEYS if described.get(key)), "float32")
    name = str(given).removeprefix("torch.")
    if name not in get_args(DType):
        raise MghError(f"dtype must be auto or one of {', '.join(get_args(DType))}, found {name!r}")
    return cast(DType, name)
