"""What a model is made of, as typed settings: the `model:` section of a recipe."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mgh_ds.common.config import Settings
from mgh_ds.common.errors import MghError
from mgh_ds.model.token_weights import POOLINGS

if TYPE_CHECKING:
    PoolingMethod = str
else:  # mypy cannot read the names out of a table
    PoolingMethod = Literal[tuple(POOLINGS)]
ColumnTransform = Literal["identity", "log1p", "sqrt", "softmax", "visible_mean"]
SinkTreatment = Literal["keep", "first", "clip"]
DType = Literal["float32", "bfloat16", "float16"]
DTypeChoice = Literal["auto", "float32", "bfloat16", "float16"]
Backend = Literal["torch", "onnx", "onnx-int8"]

INSTRUCTION_TEMPLATE = "Instruct: {instruction}\nQuery: {text}"
# Under this name in an export's config.json vLLM finds `mgh_ds.serving`. transformers goes by `model_type`.
ARCHITECTURE = "MghEmbedder"


class PoolingConfig(Settings):
    """How token states become one vector."""

    method: PoolingMethod = "ata"
    """ata (weights from the attention that each token receives), mean, last (last token), cls (first token),
    or weighted_mean (the weight grows with the position, as in SGPT)."""
    column_transform: ColumnTransform = "identity"
    """For ata, what is applied to each head's column sums before the heads are added: identity (the plain
    sums), log1p or sqrt (tame a token that swallows the attention), softmax (of the share of the head's
    attention: no token weighs more than e times another), or visible_mean (divides by the number of queries
    that can see the token, which matters where attention is causal)."""
    sink: SinkTreatment = "keep"
    """For ata, what is done before the weights are normalised about a token that swallows the attention
    whatever it means: keep (nothing), first (the first pooled token gets the mean of the text's other pooled
    tokens), or clip (no weight exceeds `clip_multiple` times the mean of the text's pooled tokens)."""
    clip_multiple: float = Field(default=2.0, ge=1)
    """For `sink: clip`, the largest weight, as a multiple of the mean of the text's pooled tokens."""
    layers: list[int] = Field(default=[-1], min_length=1)
    """For ata, the layers whose attention counts, added up before the weights are normalised. Negative ones
    count from the end: [-1] is the last layer, the paper's choice."""
    include_bos: bool = True
    """Pool the token that opens the text (BOS or CLS), if the tokenizer adds one."""
    include_instruction: bool = False
    """Pool the tokens of the instruction too."""
    detach_weights: bool = False
    """For ata, stop the gradient through the weights."""

    def layers_of(self, count: int) -> list[int]:
        """The `layers` of a model with `count` of them, each as its index from 0.

        Raises MghError for a layer that the model does not have, or one that is named twice.
        """
        for layer in self.layers:
            if not -count <= layer < count:
                raise MghError(
                    f"pooling: layers names {layer}, but the model has {count}: {-count} to {count - 1}"
                )
        found = sorted({layer % count for layer in self.layers})
        if len(found) < len(self.layers):
            raise MghError(f"pooling: layers names one layer twice: {self.layers}, of {count}")
        return found


class LoraConfig(Settings):
    """Low-rank adapters."""

    rank: int = Field(default=16, gt=0)
    """Rank of each adapter."""
    alpha: int = Field(default=32, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input, in training."""
    target_modules: list[str] | None = None
    """Names of the linear layers to adapt; null adapts every linear layer of the transformer blocks."""


class ModelConfig(Settings):
    """The backbone and what is put around it."""

    name_or_path: str
    """A folder, a GGUF file, a Hugging Face name, or `tiny-random/<family>` (bert, distilbert, electra,
    gemma2, gemma3_text, llama, mistral, modernbert, phi3, qwen2, qwen3, roberta, smollm3): a very small model
    with random weights, made on the spot."""
    adapters: list[str] = Field(default=[])
    """Folders of earlier runs whose adapters are merged into the backbone before new ones are put on, in this
    order; such as that of `mntp`. Each was trained on this backbone with those before it."""
    num_layers: int | None = Field(default=None, gt=0)
    """Keep the first so many of the backbone's layers and leave the rest out; null keeps all."""
    pooling: PoolingConfig = PoolingConfig()
    """How token states become one vector."""
    lora: LoraConfig | None = LoraConfig()
    """Low-rank adapters; null trains every weight."""
    bidirectional: bool = True
    """Let every token of a decoder see the whole text; false keeps its attention causal. Encoders such as
    BERT are bidirectional in any case."""
    max_length: int = Field(default=512, gt=0)
    """Longest input in tokens, instruction and special tokens included."""
    dtype: DTypeChoice = "float32"
    """Precision of the backbone's weights. auto: bfloat16 where the device has units for it (GPUs from Ampere
    on, CPUs with AMX, AMD's with avx512_bf16), float32 elsewhere; the run's own config.yaml says which."""
    instruction_template: str = INSTRUCTION_TEMPLATE
    """How an instruction and a text are joined; must end with `{text}`."""
    use_instructions: bool = True
    """false leaves all instructions out."""
    padding_free: bool = True
    """Lay the texts of a batch one after another instead of padding them to one length."""
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass, to save memory."""
