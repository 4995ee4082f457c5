"""Runs an exported ONNX graph by onnxruntime where an `Encoder` would run torch."""

import json
from pathlib import Path
from typing import Any

import torch
from ata_attention.transformers import ColumnSumCollector
from torch import Tensor, nn
from transformers import PreTrainedConfig

from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError
from mgh_ds.common.extras import need
from mgh_ds.model.backbone import DECODERS, read_config
from mgh_ds.model.batches import PaddedBatch, TokenBatch
from mgh_ds.model.config import Backend
from mgh_ds.model.embedder import EmbeddingModel, load_tokenizer
from mgh_ds.model.pooling import Pooling
from mgh_ds.model.settings import Settings
from mgh_ds.model.standard_modules import left_out
from mgh_ds.model.tokens import Tokenizer

# Where sentence-transformers' ONNX back end looks too.
FOLDER = "onnx"
GRAPH, INT8 = f"{FOLDER}/model.onnx", f"{FOLDER}/model_qint8.onnx"
FILES: dict[Backend, str] = {"onnx": GRAPH, "onnx-int8": INT8}
STATES, VECTORS = "last_hidden_state", "sentence_embedding"
OUTPUTS = (STATES, VECTORS)
# Of the graph's own notes: what it computes.
KEY = "mgh_ds"


class OnnxModel(EmbeddingModel):
    """An `EmbeddingModel` whose vectors a graph computes, on the CPU, with as many threads as torch has.

    It has no weights of its own, takes padded batches, and gives neither token states nor token weights.
    """

    def __init__(self, path: Path, config: PreTrainedConfig, settings: Settings) -> None:
        """`config` and `settings` are those of the folder that holds the graph `path`. Raises MghError for a
        file that onnxruntime cannot read, and one that was written for other settings."""
        import onnxruntime

        super().__init__(_Described(config), Pooling(settings.pooling), settings.dimensions)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, which have no common class
            reason = str(error).splitlines()[0]
            raise MghError(f"{path} is no graph that onnxruntime reads: export it again ({reason})") from None
        self.inputs = {node.name for node in self.session.get_inputs()}
        _check_settings(path, self.session.get_modelmeta().custom_metadata_map.get(KEY), settings)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, batch: TokenBatch, places: Tensor | None = None) -> Tensor:
        """Embeddings `[S, dim]`, as of `EmbeddingModel`. Raises MghError for a packed batch and `places`."""
        if not isinstance(batch, PaddedBatch) or places is not None:
            raise MghError("an ONNX graph takes padded batches, and gives vectors alone: use backend torch")
        feed = inputs_of(batch, "pooling_mask" in self.inputs)
        (vectors,) = self.session.run([VECTORS], {name: values.numpy() for name, values in feed.items()})
        return torch.from_numpy(vectors)

    def states(self, batch: TokenBatch) -> tuple[Tensor, ColumnSumCollector | None]:
        raise MghError(f"of {batch.texts} texts an ONNX graph gives the vectors alone: use backend torch")


class _Described(nn.Module):
    """What an `EmbeddingModel` asks of a backbone but for running it."""

    dtype = torch.float32

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config


def load_graph(folder: Path, settings: Settings, backend: Backend) -> tuple[OnnxModel, Tokenizer]:
    """The model of a folder by its ONNX graph, and a tokenizer that pads. Raises MghError if the extra is
    missing, if there is no such graph, and for what `OnnxModel` refuses."""
    need("onnx", f"backend {backend}")
    path = folder / FILES[backend]
    if not path.is_file():
        option = "--onnx --int8" if backend == "onnx-int8" else "--onnx"
        raise MghError(
            f"{path} does not exist: it is written by mgh-ds export {folder} OUT {option}; of a name on the "
            "hub that has one, mgh-ds pull brings it"
        )
    config = read_config(folder)
    config.is_causal = config.model_type in DECODERS and not settings.bidirectional
    model = OnnxModel(path, config, settings).eval()
    tokenizer = load_tokenizer(folder, settings, config, padding_free=False)
    reason = left_out(settings.pooling, use_instructions=tokenizer.use_instructions)
    if reason is not None and "pooling_mask" not in model.inputs:
        raise MghError(f"{path} pools every token, but now {reason}: export the model again with --onnx")
    return model, tokenizer


def inputs_of(batch: PaddedBatch, pooling_mask: bool) -> dict[str, Tensor]:
    """A graph's inputs by name, int64 `[B, N]`, in their order."""
    feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    return feed | {"pooling_mask": batch.pooling_mask.long()} if pooling_mask else feed


def computed(settings: Settings) -> dict[str, Any]:
    """Of a model's settings those that its graph computes; the others are the tokenizer's."""
    return settings.model_dump(include={"pooling", "bidirectional", "dimensions"})


def _check_settings(path: Path, noted: str | None, settings: Settings) -> None:
    if noted is None:
        raise MghError(f"{path} was not written by mgh-ds: export the model again with --onnx")
    if different := differences(json.loads(noted), computed(settings)):
        raise MghError(
            f"{path} computes something else than asked for; differing: {'; '.join(map(str, different))}. "
            "Export the model with these settings, or use backend torch"
        )
