"""The bridge between transformers' attention layers and ours.

`IMPLEMENTATION` is registered with transformers as an attention implementation. Under it a layer that an
`AttentionRecord` asks for runs `ata_attention` and leaves its column sums in the record. Every other layer
runs PyTorch's `scaled_dot_product_attention` if the batch is padded, and `packed_attention` if it is packed.
A record belongs to one forward call, which passes it as the keyword `RECORD` through the backbone to its
attention; so nothing is global, and wrappers such as PEFT or DeepSpeed need not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from ata_attention import ata_attention
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mgh_ds.common.errors import MghError
from mgh_ds.model.packed_attention import Window, packed_attention

# The name must not contain "flash": transformers would look for a flash-attention package.
IMPLEMENTATION = "mgh_ds_ata"
RECORD = "ata_record"


class Received(NamedTuple):
    """The attention that each token received in one layer.

    Attributes:
        column_sums: `[B, Hq, N]` or, packed, `[T, Hq]`; fp32, with gradient.
        causal, window: what the layer's queries were allowed to see, as passed to `ata_attention`.
        backend: the implementation of `ata_attention` that ran.
    """

    column_sums: Tensor
    causal: bool
    window: Window | None
    backend: str


@dataclass
class AttentionRecord:
    """What one forward call asks of the attention, and what the attention leaves behind.

    Attributes:
        layers: indices, from 0, of the layers whose column sums are wanted.
        tokens: bool `[B, N]`, or `[T]` for a packed batch: True where there is a token.
        received: by layer, what it left; empty until the first of them has run.
        with_gradient: whether gradients were on when the call began.
    """

    layers: Sequence[int]
    tokens: Tensor
    received: dict[int, Received] = field(default_factory=dict)
    with_gradient: bool = field(default_factory=torch.is_grad_enabled)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' contract: query `[B, Hq, N, D]`, key and value `[B, Hkv, N, D]`, result `[B, N, Hq, D]`.

    A packed batch is one with `cu_seq_lens_q`; then B is 1 and N all its tokens.

    Raises MghError for what would silently give wrong column sums or gradients: attention dropout, and
    reentrant activation checkpointing.
    """
    record: AttentionRecord | None = kwargs.pop(RECORD, None)
    layer = cast(int, module.layer_idx)
    if record is not None and layer not in record.layers:
        record = None
    packed = kwargs.get("cu_seq_lens_q") is not None
    if record is None and not packed:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if dropout:
        raise MghError(
            f"the backbone asks for attention dropout {dropout}; column sums are defined without it, and "
            "packed batches are attended without it: set the backbone's attention dropout to 0"
        )
    # The keyword says what the model's masks were made for. `module.is_causal` is for models that pass none:
    # it stays True on a decoder that was made bidirectional.
    causal = bool(kwargs.get("is_causal", module.is_causal))
    window = _window(sliding_window, causal)
    options: dict[str, Any] = {"causal": causal, "scale": scaling, "window": window}
    if packed:
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        options |= {"cu_seqlens": kwargs["cu_seq_lens_q"], "max_seqlen": kwargs["max_length_q"]}
    if record is None:
        return packed_attention(query, key, value, **options)[None], None
    if record.with_gradient and not torch.is_grad_enabled():
        raise MghError(
            "reentrant activation checkpointing loses the gradient through the column sums; use "
            'gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})'
        )
    if not packed:
        options["key_padding_mask"] = record.tokens
    result = ata_attention(query, key, value, **options)
    # Checkpointing comes by again in the backward pass, when the pooling already has the first run's tensor.
    if layer not in record.received:
        record.received[layer] = Received(result.column_sums, causal, window, result.backend)
    return result.out[None] if packed else result.out.transpose(1, 2).contiguous(), None


def make_mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """The mask of a padded batch, as transformers' SDPA has it; None for a packed batch, whose sign is an
    empty `attention_mask [1, 0]`."""
    if attention_mask is not None and attention_mask.shape[1] == 0:
        return None
    return sdpa_mask(attention_mask=attention_mask, **options)


def _window(sliding_window: int | None, causal: bool) -> Window | None:
    """As in transformers' masks: a causal window counts the query itself, a bidirectional one does not."""
    if sliding_window is None:
        return None
    return (sliding_window - 1, 0) if causal else (sliding_window, sliding_window)


AttentionInterface.register(IMPLEMENTATION, attention_forward)
# Without a mask function of the same name transformers makes no mask, and padding would be attended to.
AttentionMaskInterface.register(IMPLEMENTATION, make_mask)
