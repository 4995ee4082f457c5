"""The bridge between transformers' attention layers and `ata_attention`.

`IMPLEMENTATION` is registered with transformers as an attention implementation. Under it every layer runs
PyTorch's `scaled_dot_product_attention`, except the one that an `AttentionRecord` asks for: that layer runs
`ata_attention` and leaves its column sums in the record. A record belongs to one forward call, which passes
it as the keyword `RECORD` through the backbone to its attention; so nothing is global, and wrappers such as
PEFT or DeepSpeed need not know.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from ata_attention import ata_attention
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mgh_ds.errors import MghError

# The name must not contain "flash": transformers would look for a flash-attention package.
IMPLEMENTATION = "mgh_ds_ata"
RECORD = "ata_record"


@dataclass
class AttentionRecord:
    """What one forward call asks of the attention, and what the attention leaves behind.

    Attributes:
        layer: index of the layer whose column sums are wanted.
        tokens: bool `[B, N]`, True where there is a token.
        column_sums: `[B, Hq, N]`, fp32, with gradient; None until the layer has run.
        causal, window: what that layer's queries were allowed to see, as passed to `ata_attention`.
        backend: the implementation of `ata_attention` that ran.
        with_gradient: whether gradients were on when the call began.
    """

    layer: int
    tokens: Tensor
    column_sums: Tensor | None = None
    causal: bool = False
    window: tuple[int, int] | None = None
    backend: str | None = None
    with_gradient: bool = field(default_factory=torch.is_grad_enabled)

    def visible_queries(self) -> Tensor:
        """How many queries see each key: `[B, N]`, fp32, 0 at padding."""
        tokens = self.tokens.float()
        n = tokens.shape[1]
        before = nn.functional.pad(
            tokens.cumsum(1), (1, 0)
        )  # before[:, j] counts the tokens at positions below j
        position = torch.arange(n, device=tokens.device)
        left, right = self.window or (n, n)
        first = position if self.causal else (position - right).clamp_min(0)
        stop = (position + left + 1).clamp_max(n)
        return (before[:, stop] - before[:, first]) * tokens


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

    Raises MghError for what would silently give wrong column sums or gradients: packed batches, attention
    dropout, and reentrant activation checkpointing.
    """
    if kwargs.get("cu_seq_lens_q") is not None:
        raise MghError(
            "the backbone takes padded batches only: pass an attention_mask instead of cu_seq_lens"
        )
    record: AttentionRecord | None = kwargs.pop(RECORD, None)
    if record is None or record.layer != module.layer_idx:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if dropout:
        raise MghError(
            f"the backbone asks for attention dropout {dropout}; column sums are defined without it"
        )
    if record.with_gradient and not torch.is_grad_enabled():
        raise MghError(
            "reentrant activation checkpointing loses the gradient through the column sums; use "
            'gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})'
        )
    # The keyword says what the model's masks were made for. `module.is_causal` is for models that pass none:
    # it stays True on a decoder that was made bidirectional.
    causal = bool(kwargs.get("is_causal", module.is_causal))
    window = _window(sliding_window, causal)
    result = ata_attention(
        query, key, value, causal=causal, scale=scaling, window=window, key_padding_mask=record.tokens
    )
    # Checkpointing comes by again in the backward pass, when the pooling already has the first run's tensor.
    if record.column_sums is None:
        record.column_sums, record.backend = result.column_sums, result.backend
        record.causal, record.window = causal, window
    return result.out.transpose(1, 2).contiguous(), None


def _window(sliding_window: int | None, causal: bool) -> tuple[int, int] | None:
    """As in transformers' masks: a causal window counts the query itself, a bidirectional one does not."""
    if sliding_window is None:
        return None
    return (sliding_window - 1, 0) if causal else (sliding_window, sliding_window)


AttentionInterface.register(IMPLEMENTATION, attention_forward)
# Without a mask function of the same name transformers makes no mask, and padding would be attended to.
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
