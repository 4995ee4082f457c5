"""What a model is made of, as typed settings: the `model:` section of a recipe."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from mgh_ds.common.errors import MghError

PoolingMethod = Literal["ata", "mean", "last", "cls", "weighted_mean"]
ColumnTransform = Literal["identity", "log1p", "visible_mean"]
DType = Literal["float32", "bfloat16", "float16"]

INSTRUCTION_TEMPLATE = "Instruct: {instruction}\nQuery: {text}"


@dataclass(frozen=True)
class PoolingConfig:
    """How token states become one vector.

    Attributes:
        method: ata (weights from the attention that each token receives), mean, last (last token), cls (first
            token), or weighted_mean (the weight grows with the position, as in SGPT).
        column_transform: for ata, what is applied to each head's column sums before the heads are added:
            identity (the plain sums), log1p (tames a first token that swallows the attention), or
            visible_mean (divides by the number of queries that can see the token, which matters where
            attention is causal).
        layers: for ata, the layers whose attention counts, added up before the weights are normalised.
            Negative ones count from the end: [-1] is the last layer, the paper's choice.
        include_bos: pool the token that opens the text (BOS or CLS), if the tokenizer adds one.
        include_instruction: pool the tokens of the instruction too.
        detach_weights: for ata, stop the gradient through the weights.
    """

    method: PoolingMethod = "ata"
    column_transform: ColumnTransform = "identity"
    layers: list[int] = field(default_factory=lambda: [-1])
    include_bos: bool = True
    include_instruction: bool = False
    detach_weights: bool = False

    def __post_init__(self) -> None:
        for key, value, known in (
            ("method", self.method, get_args(PoolingMethod)),
            ("column_transform", self.column_transform, get_args(ColumnTransform)),
        ):
            if value not in known:
                raise MghError(f"pooling: {key} must be one of {', '.join(known)}, found {value!r}")
        if not (isinstance(self.layers, list) and self.layers and all(type(x) is int for x in self.layers)):
            raise MghError(f"pooling: layers must be a list of at least one layer, found {self.layers!r}")

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


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters.

    Attributes:
        rank: rank of each adapter.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: dropout on the adapter's input, in training.
        target_modules: names of the linear layers to adapt; null adapts every linear layer of the transformer
            blocks.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: list[str] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The backbone and what is put around it.

    Attributes:
        name_or_path: a folder, a Hugging Face name, or `tiny-random/<family>` (bert, roberta, llama,
            mistral, qwen2, qwen3): a very small model with random weights, made on the spot.
        num_layers: keep the first so many of the backbone's layers and leave the rest out; null keeps all.
        pooling: how token states become one vector.
        lora: low-rank adapters; null trains every weight.
        bidirectional: let every token of a decoder see the whole text; false keeps its attention causal.
            Encoders such as BERT are bidirectional in any case.
        max_length: longest input in tokens, instruction and special tokens included.
        dtype: of the backbone's weights.
        instruction_template: how an instruction and a text are joined; must end with `{text}`.
        use_instructions: false leaves all instructions out.
        padding_free: lay the texts of a batch one after another instead of padding them to one length.
        activation_checkpointing: compute each block's activations again in the backward pass, to save memory.
    """

    name_or_path: str
    num_layers: int | None = None
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    bidirectional: bool = True
    max_length: int = 512
    dtype: DType = "float32"
    instruction_template: str = INSTRUCTION_TEMPLATE
    use_instructions: bool = True
    padding_free: bool = True
    activation_checkpointing: bool = False
