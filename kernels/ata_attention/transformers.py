"""`ata_attention` as an attention implementation of transformers.

    from ata_attention.transformers import ColumnSumCollector, register

    model = AutoModel.from_pretrained(name, attn_implementation=register())
    collector = ColumnSumCollector(layers=[5], attention_mask=batch["attention_mask"])
    states = model(**batch, column_sums=collector).last_hidden_state
    collector.by_layer[5].column_sums  # [B, Hq, N], with gradient

A layer that the collector asks for runs `ata_attention` and leaves its column sums there. Every other layer
of a packed batch runs `packed_attention`, and of a padded one the same where a build of flash attention is
installed that takes such layers: its tokens are laid together on the way. Elsewhere it runs PyTorch's
`scaled_dot_product_attention`, or `ata_attention` if its scores are capped (Gemma 2), since that cannot cap.
A collector belongs to one forward call, which passes it as the keyword `column_sums` through the model to its
attention; so nothing is global, and wrappers such as PEFT or DeepSpeed need not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ata_attention import flash
from ata_attention.autocast import in_autocast
from ata_attention.interface import ata_attention
from ata_attention.masks import Window
from ata_attention.packed import packed_attention, unpadded_attention

# The name must not contain "flash": transformers would search for a flash-attention package.
IMPLEMENTATION = "ata_attention"
KEYWORD = "column_sums"


class UnsupportedAttention(NotImplementedError):
    """The model asks for something under which column sums or their gradient would silently be wrong."""


class LayerColumnSums(NamedTuple):
    """The attention that each token received in one layer.

    Attributes:
        column_sums: `[B, Hq, N]` or, packed, `[T, Hq]`; fp32, with gradient.
        causal, window: the layer's mask, as passed to `ata_attention`.
        backend: the implementation of `ata_attention` that ran.
    """

    column_sums: Tensor
    causal: bool
    window: Window | None
    backend: str


@dataclass
class ColumnSumCollector:
    """What one forward call asks of the attention, and what the attention leaves behind.

    Attributes:
        layers: indices, from 0, of the layers whose column sums are wanted.
        attention_mask: `[B, N]`, 1 or True where there is a token, as the model got it; a packed batch needs
            none.
        by_layer: what each layer left; empty until the first of them has run, and after a forward call of a
            model whose `attn_implementation` is another.
        with_gradient: whether gradients were on when the call began.
    """

    layers: Sequence[int]
    attention_mask: Tensor | None = None
    by_layer: dict[int, LayerColumnSums] = field(default_factory=dict)
    with_gradient: bool = field(default_factory=torch.is_grad_enabled)


def register() -> str:
    """Makes the implementation known to transformers; returns its name, to pass as `attn_implementation`.

    Calling it again changes nothing.
    """
    AttentionInterface.register(IMPLEMENTATION, attention_forward)
    # Without a mask function of the same name transformers makes no mask, and padding would be attended to.
    AttentionMaskInterface.register(IMPLEMENTATION, make_mask)
    return IMPLEMENTATION


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' contract: query `[B, Hq, N, D]`, key and value `[B, Hkv, N, D]`, result `[B, N, Hq, D]`.

    A packed batch is one with `cu_seq_lens_q`; then B is 1 and N all its tokens. `attention_mask` is what
    `make_mask` made.

    Raises UnsupportedAttention for what would silently give wrong column sums or gradients (attention
    dropout, and reentrant activation checkpointing), and ValueError for a padded batch whose collector has no
    `attention_mask`.
    """
    collector: ColumnSumCollector | None = kwargs.pop(KEYWORD, None)
    layer = cast(int, module.layer_idx)
    if collector is not None and layer not in collector.layers:
        collector = None
    packed = kwargs.get("cu_seq_lens_q") is not None
    places = attention_mask if attention_mask is not None and attention_mask.dim() == 1 else None
    if collector is None and not packed and places is None and softcap is None:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if dropout:
        raise UnsupportedAttention(
            f"the backbone asks for attention dropout {dropout}; column sums are defined without it, and "
            "packed batches, capped scores and flash attention know none: set the backbone's attention "
            "dropout to 0"
        )
    # The keyword says what the model's masks were made for. `module.is_causal` is for models that pass none:
    # it stays True on a decoder that was made bidirectional.
    causal = bool(kwargs.get("is_causal", module.is_causal))
    window = _window(sliding_window, causal, natively_bidirectional=not module.is_causal)
    options: dict[str, Any] = {"causal": causal, "scale": scaling, "window": window, "softcap": softcap}
    if collector is None and places is not None:
        return unpadded_attention(query, key, value, places, **options), None
    if packed:
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        options |= {"cu_seqlens": kwargs["cu_seq_lens_q"], "max_seqlen": kwargs["max_length_q"]}
    if collector is None and packed:
        return packed_attention(query, key, value, **options)[None], None
    if collector is not None and collector.with_gradient and not torch.is_grad_enabled():
        raise UnsupportedAttention(
            "reentrant activation checkpointing loses the gradient through the column sums; use "
            'gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})'
        )
    if not packed:
        options["key_padding_mask"] = _tokens(collector, attention_mask)
    result = ata_attention(query, key, value, **options)
    # Checkpointing comes by again in the backward pass, when the first run's tensor is already in use.
    if collector is not None and layer not in collector.by_layer:
        collector.by_layer[layer] = LayerColumnSums(result.column_sums, causal, window, result.backend)
    return result.out[None] if packed else result.out.transpose(1, 2).contiguous(), None


def make_mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """What the layers of a batch are told about its tokens.

    Of a packed batch, whose sign is an empty `attention_mask [1, 0]`: None. Of a padded one that flash
    attention can run: the places of its tokens among the B · N, int64 and rising; to count them waits for the
    GPU. Of any other the mask of transformers' SDPA.
    """
    if attention_mask is not None and attention_mask.shape[1] == 0:
        return None
    if not _unpaddable(**options):
        return sdpa_mask(attention_mask=attention_mask, **options)
    if attention_mask is None:
        return torch.arange(options["batch_size"] * options["q_length"], device=options["device"])
    return attention_mask.flatten().nonzero()[:, 0]


def _unpaddable(
    *,
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
    q_length: int,
    kv_length: int,
    allow_is_causal_skip: bool = False,
    allow_is_bidirectional_skip: bool = False,
    **_: Any,
) -> bool:
    """Whether the layers of a padded batch can run flash attention, by what transformers says of their mask:
    that it is the usual one, whose causality and window the layers know, without cached keys."""
    usual = allow_is_causal_skip or allow_is_bidirectional_skip
    if not usual or q_length != kv_length or torch.compiler.is_compiling():
        return False
    width, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    head_dim = getattr(config, "head_dim", None) or (width // heads if width and heads else None)
    return head_dim is not None and flash.at_hand(device, in_autocast(device, dtype), head_dim)


def _tokens(collector: ColumnSumCollector | None, mask: Tensor | None) -> Tensor | None:
    """Which places of a padded batch hold a token, bool `[B, N]`; None if all do. `mask` is what `make_mask`
    gave, bool `[B, 1, N, N]`: on its diagonal, since every token sees itself and nobody sees padding."""
    if collector is None:
        return None if mask is None else mask[:, 0].diagonal(dim1=1, dim2=2)
    if collector.attention_mask is None:
        raise ValueError(
            "the batch is padded, and its collector does not know where: pass the model's "
            "attention_mask to ColumnSumCollector too, all ones if there is no padding"
        )
    return collector.attention_mask.bool()


def _window(sliding_window: int | None, causal: bool, *, natively_bidirectional: bool) -> Window | None:
    """As in transformers' masks: a window counts the query itself, but that of a decoder which was turned
    bidirectional does not."""
    if sliding_window is None:
        return None
    if causal:
        return sliding_window - 1, 0
    side = sliding_window - 1 if natively_bidirectional else sliding_window
    return side, side
