"""A model, how it encodes, and what is kept of its vectors: the options of all verbs that encode."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from mgh_ds.common.errors import MghError
from mgh_ds.encoding.vectors import StoredType
from mgh_ds.model.arguments import add_backend_argument
from mgh_ds.model.config import Backend, DTypeChoice, PoolingMethod

if TYPE_CHECKING:
    from mgh_ds.model.encoder import Encoder


@dataclass(frozen=True)
class EncodingSettings:
    """The fields are the options of `add_encoding_arguments`."""

    model: str
    pooling: PoolingMethod | None = None
    max_length: int | None = None
    precision: DTypeChoice = "float32"
    device: str | None = None
    backend: Backend = "torch"
    dtype: StoredType = "float32"
    dimensions: int | None = None
    batch_size: int = 64
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("--batch-size", self.batch_size), ("--batch-tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise MghError(f"{name} is {value}; it must be at least 1")

    def load(self, instructions: bool = False) -> "Encoder":
        """The encoder; its `origin` holds the model's fingerprint. Raises MghError if it cannot be loaded, or
        if it is to read `instructions` and would leave them out."""
        from mgh_ds.model.encoder import Encoder
        from mgh_ds.model.fingerprint import fingerprint

        encoder = Encoder.from_pretrained(
            self.model,
            self.pooling,
            max_length=self.max_length,
            dimensions=self.dimensions,
            dtype=self.precision,
            device=self.device,
            backend=self.backend,
        )
        if instructions and not encoder.use_instructions:
            raise MghError(f"{self.model} was saved with use_instructions: false: ask for none")
        encoder.origin = {"weights": fingerprint(self.model, self.backend)}
        return encoder


def add_encoding_arguments(parser: argparse.ArgumentParser, model_required: bool = True) -> None:
    """Declares the fields of `EncodingSettings`, and `--worker` and `--workers`."""
    parser.add_argument(
        "--model",
        required=model_required,
        help="Hugging Face name, model folder, GGUF file or a run's folder",
    )
    parser.add_argument(
        "--pooling",
        choices=get_args(PoolingMethod),
        help="default: what the model was saved with, else ata",
    )
    parser.add_argument("--max-length", type=int, help="tokens a text is cut to; default: the model's own")
    parser.add_argument(
        "--precision",
        choices=get_args(DTypeChoice),
        default="float32",
        help="that the model computes in (default: float32)",
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    add_backend_argument(parser)
    parser.add_argument(
        "--dtype",
        choices=get_args(StoredType),
        default="float32",
        help="of the stored vectors (default: float32)",
    )
    parser.add_argument(
        "--dimensions",
        type=int,
        metavar="D",
        help="keep the first D of each vector, of unit length again, as of Matryoshka models; default: all",
    )
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch-size", type=int, default=64, help="texts encoded at once (default: 64)")
    batch.add_argument(
        "--batch-tokens",
        type=int,
        metavar="N",
        help="encode as many texts at once as have N tokens together, instead of a number of texts",
    )
    parser.add_argument(
        "--worker",
        type=int,
        metavar="I",
        help="number of this worker, from 0; default: as SLURM or torch says",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="how many there are; default: likewise, else 1"
    )
