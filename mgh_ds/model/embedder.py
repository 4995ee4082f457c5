"""The trainable model: backbone, adapters and pooling in one module."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ata_attention.transformers import ColumnSumCollector, UnsupportedAttention
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from mgh_ds.common.errors import MghError
from mgh_ds.model.adapters import Adapter, merge
from mgh_ds.model.backbone import check_length, first_position, load_backbone, longest_input
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.config import DType, LoraConfig, ModelConfig
from mgh_ds.model.pooling import Pooling
from mgh_ds.model.precision import default_device, settle
from mgh_ds.model.settings import Settings
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.model.weights import resolve_model

# A linear layer between the embeddings and the blocks of an ELECTRA: "all-linear" would take it too.
BEFORE_BLOCKS = "embeddings_project"
# For a model whose authors state no length.
DEFAULT_MAX_LENGTH = 512


class EmbeddingModel(nn.Module):
    """Token ids in, unit vectors out.

    `backbone` is a transformers model, or one in PEFT's wrapper; `pooling` makes one vector of its states, of
    which the first `dimensions` are kept (all, if None).
    """

    backbone: Any  # both kinds have the attributes that are used here, which nn.Module does not declare

    def __init__(self, backbone: nn.Module, pooling: Pooling, dimensions: int | None = None) -> None:
        """Raises MghError if the pooling asks for layers, or `dimensions` for more, than the backbone has."""
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.layers = pooling.config.layers_of(self.backbone.config.num_hidden_layers)
        self.cut_to(dimensions)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.dimensions or self.backbone.config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def cut_to(self, dimensions: int | None) -> None:
        """From now on keeps so many dimensions of an embedding, the first ones; None keeps all. Raises
        MghError for more than there are, or none."""
        whole = self.backbone.config.hidden_size
        if dimensions is not None and not 1 <= dimensions <= whole:
            raise MghError(f"dimensions is {dimensions}, but the model's embeddings have 1 to {whole}")
        self.dimensions = None if dimensions == whole else dimensions

    def forward(self, batch: TokenBatch, places: Tensor | None = None) -> Tensor:
        """Embeddings `[S, dim]`, fp32, of unit length; or with `places`, int64 `[p]`, which count tokens
        through the batch's rows, the states `[p, dim]` of these tokens, in the backbone's precision. Raises
        MghError for a batch without texts."""
        if places is not None:
            return self._run(batch, None).flatten(0, -2)[places]
        hidden, collector = self.states(batch)
        return self.embed(hidden, batch, collector)

    def embed(self, hidden: Tensor, batch: TokenBatch, collector: ColumnSumCollector | None) -> Tensor:
        """Embeddings `[S, dim]` out of what `states` gave."""
        pooled = self.pooling(hidden, batch, collector)
        return nn.functional.normalize(pooled[:, : self.dimensions], dim=-1)

    def token_weights(self, batch: TokenBatch) -> Tensor:
        """The weight of each token in its text's embedding, `[B, N]` or `[T]`, fp32; a text's sum to 1."""
        _, collector = self.states(batch)
        return self.pooling.weights(batch, collector)

    def states(self, batch: TokenBatch) -> tuple[Tensor, ColumnSumCollector | None]:
        """Token states `[B, N, dim]` or `[T, dim]` of the last layer and, for ATA, the column sums of its
        layers. Raises MghError for attention dropout and reentrant activation checkpointing."""
        collector = None
        if self.pooling.reads_attention:
            collector = ColumnSumCollector(self.layers, batch.token_mask)
        return self._run(batch, collector), collector

    def _run(self, batch: TokenBatch, collector: ColumnSumCollector | None) -> Tensor:
        if batch.texts == 0:
            raise MghError("the batch holds no texts: call the model with one at least")
        inputs = batch.backbone_inputs(first_position(self.backbone.config))
        try:
            output = self.backbone(**inputs, use_cache=False, column_sums=collector)
        except UnsupportedAttention as error:
            raise MghError(str(error)) from error
        return output.last_hidden_state.view(*batch.input_ids.shape, -1)


def cause_of_nan(model: EmbeddingModel) -> str:
    """Why a model may return NaN or infinity, for an error's text: a weight that holds such, or precision."""
    weights = model.named_parameters()
    broken = next((name for name, weight in weights if not weight.isfinite().all()), None)
    return f"its weight {broken} holds such" if broken else "its precision does not suffice"


def build_model(
    config: ModelConfig, seed: int = 0, adapters: Sequence[Adapter] = ()
) -> tuple[EmbeddingModel, Tokenizer]:
    """The model that `config` describes, on the CPU and in evaluation mode, and its tokenizer.

    `adapters` are those that `config.adapters` names, read by whoever knows runs; they are merged into the
    backbone. With `config.lora` only new ones are trainable; their first weights depend on `seed` alone.
    Raises MghError for a model that cannot be found or is of an unknown type, and for adapters that do not
    fit it.
    """
    if [adapter.name for adapter in adapters] != config.adapters:
        raise ValueError(f"model.adapters are {config.adapters}, but others were given to be merged")
    settings = Settings(
        pooling=config.pooling,
        bidirectional=config.bidirectional,
        max_length=config.max_length,
        instruction_template=config.instruction_template,
        use_instructions=config.use_instructions,
    )
    model, tokenizer = load_model(
        resolve_model(config.name_or_path),
        settings,
        settle(config.dtype, default_device()),
        padding_free=config.padding_free,
        num_layers=config.num_layers,
    )
    for adapter in adapters:
        merge(model.backbone, adapter)
    if config.activation_checkpointing:
        # The reentrant kind loses the gradient through the column sums.
        model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.lora is not None:
        model.backbone = _with_adapters(model.backbone, config.lora, seed)
    return model.eval(), tokenizer


def load_model(
    folder: Path,
    settings: Settings,
    dtype: DType = "float32",
    *,
    padding_free: bool = True,
    num_layers: int | None = None,
) -> tuple[EmbeddingModel, Tokenizer]:
    """The model in `folder` without adapters, on the CPU and in evaluation mode, and its tokenizer.

    With `num_layers` only its first so many layers. Raises MghError for what `load_backbone` refuses, for a
    `max_length` beyond what the model takes, and for a tokenizer that does not fit the model.
    """
    backbone = load_backbone(folder, bidirectional=settings.bidirectional, dtype=dtype, num_layers=num_layers)
    tokenizer = load_tokenizer(folder, settings, backbone.config, padding_free=padding_free)
    tokenizer.check_vocabulary(backbone.get_input_embeddings().num_embeddings, folder)
    return EmbeddingModel(backbone, Pooling(settings.pooling), settings.dimensions).eval(), tokenizer


def load_tokenizer(
    folder: Path, settings: Settings, config: PreTrainedConfig, *, padding_free: bool = True
) -> Tokenizer:
    """The tokenizer in `folder`, for its model of that `config`. Raises MghError for a `max_length` beyond
    what the model takes, and for what `Tokenizer` refuses."""
    length = settings.max_length or min(longest_input(config) or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH)
    check_length(length, config, folder)
    return Tokenizer.from_pretrained(
        folder,
        max_length=length,
        instruction_template=settings.instruction_template,
        use_instructions=settings.use_instructions,
        prompt=settings.prompt,
        append_eos=settings.append_eos,
        include_bos=settings.pooling.include_bos,
        include_instruction=settings.pooling.include_instruction,
        padding_free=padding_free,
    )


def settings_of(model: EmbeddingModel, tokenizer: Tokenizer) -> Settings:
    """The settings with which `load_model` makes this model and tokenizer again."""
    return Settings(
        pooling=model.pooling.config,
        bidirectional=not model.backbone.config.is_causal,
        max_length=tokenizer.max_length,
        instruction_template=tokenizer.instruction_template,
        use_instructions=tokenizer.use_instructions,
        prompt=tokenizer.prompt,
        append_eos=tokenizer.append_eos,
        dimensions=model.dimensions,
    )


def _with_adapters(backbone: PreTrainedModel, config: LoraConfig, seed: int) -> nn.Module:
    import peft  # slow to import, and not needed to encode

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules or "all-linear",
        exclude_modules=BEFORE_BLOCKS if hasattr(backbone, BEFORE_BLOCKS) else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(backbone, settings)
        except ValueError as error:
            raise MghError(f"model.lora does not fit this backbone: {error}") from error
