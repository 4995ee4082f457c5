"""`Encoder`: texts in, vectors out.

encoder = Encoder.from_pretrained("runs/demo/export")
vectors = encoder.encode(["How tall is the Eiffel Tower?"], instruction="Retrieve the answer.")
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mgh_ds.common.errors import MghError
from mgh_ds.common.surrogates import has_lone_surrogate
from mgh_ds.model import card
from mgh_ds.model.batches import Row, TokenBatch
from mgh_ds.model.config import Backend, ColumnTransform, DTypeChoice, PoolingMethod, SinkTreatment
from mgh_ds.model.embedder import EmbeddingModel, cause_of_nan, load_model
from mgh_ds.model.export import export, why_ours
from mgh_ds.model.onnx_model import OnnxModel, load_graph
from mgh_ds.model.precision import default_device, settle
from mgh_ds.model.sentence_transformers_folder import named_prompts
from mgh_ds.model.settings import Settings, read_settings
from mgh_ds.model.token_weights import POOLINGS
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.model.weights import resolve_model

TOKENIZED_AT_ONCE = 64  # texts whose tokens wait for a batch with room

Batch = tuple[Sequence[int], TokenBatch]
"""Places of texts among those that are encoded, and their tokens."""


class Encoder:
    """A model and its tokenizer, ready to embed texts. The model stays on its device and is not changed.

    `origin` says which weights they are and what was made of them, where that is known: results of an
    evaluation keep it. `prompts` are those that a folder of sentence-transformers has names for; they are
    handed on by `save`.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        tokenizer: Tokenizer,
        name: str = "model",
        origin: Mapping[str, Any] | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.origin = origin or {}
        self.prompts = prompts or {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        pooling: PoolingMethod | None = None,
        *,
        column_transform: ColumnTransform | None = None,
        sink: SinkTreatment | None = None,
        clip_multiple: float | None = None,
        layers: list[int] | None = None,
        include_bos: bool | None = None,
        include_instruction: bool | None = None,
        bidirectional: bool | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        dtype: DTypeChoice = "float32",
        device: str | torch.device | None = None,
        instruction_template: str | None = None,
        padding_free: bool = True,
        backend: Backend = "torch",
    ) -> "Encoder":
        """Loads a Hugging Face model (by name, folder or GGUF file), or what `export` or
        sentence-transformers wrote.

        An option left out is as such a folder says. For other models: ATA pooling with the last layer's plain
        column sums, BOS pooled and instructions not, decoders made bidirectional, and the length that the
        model's authors chose, or 512 tokens. The options are explained in `mgh_ds.model.config`. Of an
        embedding the first `dimensions` are kept, for models that are trained for it (Matryoshka). `device`
        is the GPU if there is one.

        `backend` onnx, or onnx-int8, has onnxruntime compute the graph that the folder was exported with, on
        the CPU, in float32 and padded; options that the graph does not obey are refused.

        Raises MghError if the model cannot be found, is of an unknown type, holds what mgh-ds does not apply,
        or does not fit the options.
        """
        if dtype not in get_args(DTypeChoice):
            raise MghError(f"dtype must be one of {', '.join(get_args(DTypeChoice))}, found {dtype!r}")
        if max_length is not None and (not isinstance(max_length, int) or max_length < 1):
            raise MghError(f"max_length must be a whole number of 1 or more, found {max_length!r}")
        folder = resolve_model(str(name_or_path))
        saved = read_settings(folder)
        of_ata = {
            "column_transform": column_transform,
            "sink": sink,
            "clip_multiple": clip_multiple,
            "layers": layers,
        }
        _check_void(saved, name_or_path, pooling, of_ata)
        settings = saved.changed(
            method=pooling,
            **of_ata,
            include_bos=include_bos,
            include_instruction=include_instruction,
            bidirectional=bidirectional,
            max_length=max_length,
            instruction_template=instruction_template,
            dimensions=dimensions,
        )
        if clip_multiple is not None and settings.pooling.sink != "clip":
            raise MghError(f"clip_multiple is for sink clip, but sink is {settings.pooling.sink}")
        if backend != "torch":
            _check_backend(backend, device, dtype)
            graph, tokenizer = load_graph(folder, settings, backend)
            return cls(graph, tokenizer, str(name_or_path), prompts=named_prompts(folder))
        try:
            device = torch.device(device or default_device())
            chosen = settle(dtype, device)
            model, tokenizer = load_model(folder, settings, chosen, padding_free=padding_free)
            return cls(model.to(device), tokenizer, str(name_or_path), prompts=named_prompts(folder))
        except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
            raise MghError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.model.dim

    @property
    def max_length(self) -> int:
        """Longest input in tokens; longer texts are cut."""
        return self.tokenizer.max_length

    @property
    def causal(self) -> bool:
        """Whether a token sees only what precedes it."""
        return bool(self.model.backbone.config.is_causal)

    @property
    def pooling(self) -> PoolingMethod:
        """Name of the pooling method."""
        return self.model.pooling.config.method

    @property
    def use_instructions(self) -> bool:
        """Whether an instruction is put before a text; else none may be asked for."""
        return self.tokenizer.use_instructions

    @property
    def prompt(self) -> str:
        """What precedes each text that is read under no instruction; "" for nothing, as where the model
        reads no instructions."""
        return self.tokenizer.prompt if self.use_instructions else ""

    def encode(
        self,
        texts: Sequence[str],
        instruction: str | None = None,
        batch_size: int = 32,
        progress: bool | Callable[[int], object] = False,
        batch_tokens: int | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of `texts`, each read under `instruction`, else under the default prompt, if any:
        `[len(texts), dim]`, of unit length; zeros for a text without a token, as an empty one is to a
        tokenizer that adds none.

        Texts of like length share a batch; a text's embedding depends on its batch by rounding only. A batch
        has `batch_size` texts or, where `batch_tokens` is given, at most so many tokens, padding counted; a
        text that is longer has one to itself.
        `progress` shows a bar, or is called with the number of texts done since its last call. Raises
        MghError for anything but a sequence of strings, for an instruction that the model would leave out,
        and if an embedding holds NaN or infinity.
        """
        _check_texts(texts)
        if instruction is not None and not isinstance(instruction, str):
            raise MghError(
                f"instruction is of type {type(instruction).__name__}; encode takes one string or None"
            )
        if instruction and not self.use_instructions:
            raise MghError(
                f"{self.name} was saved with use_instructions: false, so that it would leave out the "
                f"instruction {instruction[:80]!r}: encode without one"
            )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise MghError(f"batch_size must be a whole number of 1 or more, found {batch_size!r}")
        if batch_tokens is not None and (not isinstance(batch_tokens, int) or batch_tokens < 1):
            raise MghError(f"batch_tokens must be a whole number of 1 or more, found {batch_tokens!r}")
        device = self.model.device
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        longest_first = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        if batch_tokens is None:
            batches = self._by_count(texts, longest_first, instruction, batch_size)
        else:
            batches = self._by_tokens(texts, longest_first, instruction, batch_tokens)
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                tqdm(total=len(texts), unit="text", disable=progress is not True) as bar,
            ):
                told = progress if callable(progress) else bar.update
                for chosen, tokens in batches:
                    if tokens.input_ids.numel():
                        vectors[chosen] = self.model(tokens.to(device)).cpu().numpy()
                    else:
                        vectors[chosen] = 0.0
                    require_finite([texts[i] for i in chosen], vectors[chosen], self._cause_of_nan)
                    told(len(chosen))
        finally:
            self.model.train(was_training)
        return vectors

    def _by_count(
        self, texts: Sequence[str], places: Sequence[int], instruction: str | None, batch_size: int
    ) -> Iterator[Batch]:
        """The texts at `places`, in that order, so many at a time."""
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            yield chosen, self.tokenizer.tokenize([texts[i] for i in chosen], [instruction] * len(chosen))

    def _by_tokens(
        self, texts: Sequence[str], places: Sequence[int], instruction: str | None, batch_tokens: int
    ) -> Iterator[Batch]:
        """The texts at `places`, in that order, as many at a time as have at most `batch_tokens` tokens, but
        one at least."""
        chosen: list[int] = []
        rows: list[Row] = []
        total = longest = 0
        for start in range(0, len(places), TOKENIZED_AT_ONCE):
            block = places[start : start + TOKENIZED_AT_ONCE]
            found = self.tokenizer.rows([texts[i] for i in block], [instruction] * len(block))
            for place, row in zip(block, found, strict=True):
                length = len(row[0])
                packed, padded = total + length, (len(rows) + 1) * max(longest, length)
                if rows and (packed if self.tokenizer.padding_free else padded) > batch_tokens:
                    yield chosen, self.tokenizer.collate(rows)
                    chosen, rows, total, longest = [], [], 0, 0
                chosen.append(place)
                rows.append(row)
                total, longest = total + length, max(longest, length)
        if rows:
            yield chosen, self.tokenizer.collate(rows)

    def _cause_of_nan(self) -> str:
        return f"{cause_of_nan(self.model)} (model {self.name}, in {self.model.backbone.dtype})"

    def save(self, folder: str | Path, *, onnx: bool = False, int8: bool = False) -> None:
        """Writes the model to the new folder `folder`, as `export` does; `from_pretrained` loads it again.

        With `onnx` also as an ONNX graph, and with `int8` as one that is quantised too. Raises MghError for a
        model that was loaded as a graph, and for what `write_graphs` refuses.
        """
        if isinstance(self.model, OnnxModel):
            raise MghError(
                f"{self.name} was loaded as a graph, which has no weights to save: load it by torch"
            )
        export(
            self.model,
            self.tokenizer,
            Path(folder),
            card=card.of_encoder(self.name, why_ours(self.model, self.tokenizer)),
            prompts=self.prompts,
            onnx=onnx,
            int8=int8,
        )


def require_finite(texts: Sequence[str], vectors: NDArray[np.float32], cause: Callable[[], str]) -> None:
    """Raises MghError, which ends in `cause`, if the vector of a text, a row of `vectors`, holds NaN or
    infinity."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise MghError(
            f"the encoder returned NaN or infinity for {int((~finite).sum())} of {len(texts)} texts, the "
            f"first being {texts[int(np.argmin(finite))][:80]!r}: {cause()}"
        )


def _check_backend(backend: str, device: object, dtype: str) -> None:
    """Refuses another backend than there is, and what onnxruntime is not asked for here."""
    if backend not in get_args(Backend):
        raise MghError(f"backend must be one of {', '.join(get_args(Backend))}, found {backend!r}")
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise MghError(f"backend {backend} runs on the CPU: leave device {str(device)!r} out")
    if dtype not in ("auto", "float32"):
        raise MghError(f"backend {backend} computes in float32: leave dtype {dtype!r} out")


def _check_void(saved: Settings, name: object, pooling: str | None, options: Mapping[str, object]) -> None:
    """Refuses options of ATA for another pooling, be it asked for or the one that the folder asks for."""
    given = [option for option, value in options.items() if value is not None]
    method = pooling or saved.pooling.method
    if not given or method not in POOLINGS or POOLINGS[method].reads_attention:
        return
    if pooling is not None:
        raise MghError(f"{given[0]} is for ATA pooling, but asked for is {pooling}: leave it out")
    raise MghError(
        f"{given[0]} is for ATA pooling, but {name} was saved with {saved.pooling.method}: "
        "ask for pooling ata as well"
    )


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise MghError("encode takes a sequence of texts, not one text: write encode([text])")
    if isinstance(texts, np.ndarray) and texts.ndim != 1:
        raise MghError(f"encode takes a sequence of texts, found an array of shape {texts.shape}")
    if not isinstance(texts, Sequence | np.ndarray):
        raise MghError(f"encode takes a sequence of texts, found {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise MghError(f"text {i} is of type {type(text).__name__}; encode takes strings")
        if has_lone_surrogate(text):
            raise MghError(f"text {i} holds half of a surrogate pair, which no tokenizer can read")
