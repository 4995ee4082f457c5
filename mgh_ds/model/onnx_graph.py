"""Writes the model of a folder as an ONNX graph, `onnx/model.onnx`, and sees that it gives torch's vectors.

The graph is what `EmbeddingModel` does with a padded batch, for any number of texts and tokens:

    input_ids, attention_mask [B, N]  →  last_hidden_state [B, N, D], sentence_embedding [B, dim]

with a third input, `pooling_mask [B, N]`, for a model that leaves tokens out of its pooling; all are int64.
The first output is what sentence-transformers' ONNX back end pools by itself, the second the vector of unit
length. Layers whose column sums the pooling reads have their attention spelled out, with the whole matrix.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.common.extras import need
from mgh_ds.model.batches import PaddedBatch, Row
from mgh_ds.model.embedder import EmbeddingModel, load_model
from mgh_ds.model.hf_logging import quiet
from mgh_ds.model.onnx_model import FOLDER, GRAPH, INT8, KEY, OUTPUTS, OnnxModel, computed, inputs_of
from mgh_ds.model.settings import read_settings
from mgh_ds.model.standard_modules import left_out
from mgh_ds.model.tokens import Tokenizer

LEAST_COSINE = 0.9999
# The newest whose attention every runtime here reads as plain operations.
OPSET = 18
# A graph whose weights are larger has them in a file of its own: protobuf ends at 2 GiB.
LARGE = 2**30
TEXTS = (
    "Why?",
    "The harbour master keeps a list of every boat that enters before sunrise.",
    "How do I replace the thermostat of a dishwasher that no longer heats, and what will it cost? " * 4,
    "A short text between two that are longer.",
    "Light from the galaxy left it long before the first fish crawled onto land. " * 2,
)


class Agreement(NamedTuple):
    """Cosines between a graph's vectors and torch's, of the texts that it was tried with."""

    least: float
    mean: float


class Graphs(NamedTuple):
    """What was written: how `model.onnx` agrees with torch, and `model_qint8.onnx` where it is there."""

    float32: Agreement
    int8: Agreement | None
    inputs: tuple[str, ...]


class _Traced(nn.Module):
    """The model as a function of the graph's inputs."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pooling_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens = attention_mask.bool()
        pooled = tokens if pooling_mask is None else pooling_mask.bool()
        batch = PaddedBatch(input_ids, tokens, pooled)
        hidden, collector = self.model.states(batch)
        return hidden, self.model.embed(hidden, batch, collector)


def write_graphs(folder: Path, *, int8: bool = False) -> Graphs:
    """Writes `onnx/` to a folder that `Encoder` reads; with `int8` also a graph whose linear layers are
    quantised: weights to 8 bits, a scale for each row, and activations when it runs.

    The weights are float32. Nothing is left behind on an error. Raises MghError if the extra is missing, if
    `onnx/` exists, for a model that torch cannot trace, and for a graph whose vectors have a cosine below
    0.9999 to torch's.
    """
    need("onnx", "an ONNX graph")
    settings = read_settings(folder)
    model, tokenizer = load_model(folder, settings, padding_free=False)
    leaves_out = left_out(settings.pooling, use_instructions=tokenizer.use_instructions) is not None
    batches = _batches(tokenizer, leaves_out)
    with files.new_folder(folder / FOLDER) as temporary:
        path = temporary / Path(GRAPH).name
        feed = inputs_of(batches[0], leaves_out)
        _write(_Traced(model), feed, path, {KEY: json.dumps(computed(settings))})
        wanted = _vectors(model, batches)
        float32 = _agreement(wanted, _vectors(OnnxModel(path, model.backbone.config, settings), batches))
        if not float32.least >= LEAST_COSINE:
            raise MghError(
                f"the ONNX graph of this {model.backbone.config.model_type} model was not kept: run by "
                f"onnxruntime, a text's vector has a cosine of {float32.least:.6f} to torch's, and "
                f"{LEAST_COSINE} is asked for"
            )
        quantised = None
        if int8:
            path8 = temporary / Path(INT8).name
            _quantise(path, path8)
            found = _vectors(OnnxModel(path8, model.backbone.config, settings), batches)
            quantised = _agreement(wanted, found)
            if not np.isfinite(quantised.least):
                raise MghError("the int8 graph gives NaN or infinity: export without --int8")
    return Graphs(float32, quantised, tuple(feed))


def _batches(tokenizer: Tokenizer, leaves_out: bool) -> list[PaddedBatch]:
    """Texts of several lengths together, then the shortest and the longest alone. If tokens may be left out
    of the pooling, the second of each text is."""

    def row(ids: list[int]) -> Row:
        return ids, [not leaves_out or place != 1 for place in range(len(ids))]

    rows = [row(ids) for ids, _ in tokenizer.rows(TEXTS)]
    by_length = sorted(rows, key=lambda row: len(row[0]))
    batches = [tokenizer.collate(chosen) for chosen in (rows, by_length[:1], by_length[-1:])]
    return [batch for batch in batches if isinstance(batch, PaddedBatch)]


def _write(graph: nn.Module, feed: dict[str, Tensor], path: Path, notes: dict[str, str]) -> None:
    sizes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1)}
    large = 4 * sum(weight.numel() for weight in graph.parameters()) > LARGE
    try:
        with _undisturbed():
            program = torch.onnx.export(
                graph.eval(),
                tuple(feed.values()),
                input_names=list(feed),
                output_names=list(OUTPUTS),
                dynamic_shapes=tuple(sizes for _ in feed),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            program.model.metadata_props.update(notes)
            program.save(path, external_data=large)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise MghError(
            "the model cannot be written as an ONNX graph: torch.onnx.export (dynamo, opset "
            f"{OPSET}, any number of texts and tokens) was tried, and says: {reason[0]}"
        ) from error


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _undisturbed():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7 bits, so that sums of products do not overflow on a CPU without VNNI.
            reduce_range=True,
            use_external_data_format=source.with_name(f"{source.name}.data").exists(),
        )


def _vectors(model: EmbeddingModel, batches: list[PaddedBatch]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in batches]).numpy()


def _agreement(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    cosines = (wanted.astype(np.float64) * found).sum(1)
    return Agreement(float(cosines.min()), float(cosines.mean()))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the remarks of exporter and quantiser on operators of other packages and names of axes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
