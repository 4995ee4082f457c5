"""The bridge between transformers' attention layers and `ata_attention`.

`IMPLEMENTATION` is registered with transformers as an attention implementation. Under it every layer runs
`scaled_dot_product_attention` as usual, except the one that an `AttentionRecord`, passed to the backbone's forward as the keyword
`RECORD`, asks for: that layer runs `ata_attention` and leaves its column sums in the record. A record belongs to one
forward call, so nothing is global, and activation checkpointing (non-reentrant) replays it safely.
"""

from dataclasses import dataclass
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
    """What one forward call asks of the attention (`layer`, `tokens`), and what the attention leaves behind.

    Attributes:
        layer: index of the layer whose column sums are wanted.
        tokens: bool `[B, N]`, True where there is a token.
        column_sums: fp32 `[B, Hq, N]`, with gradient; None until the layer has run.
        causal, window: what that layer's queries were allowed to see, as passed to `ata_attention`.
        backend: the implementation of `ata_attention` that ran.
    """

    layer: int
    tokens: Tensor
    column_sums: Tensor | None = None
    causal: bool = False
    window: tuple[int, int] | None = None
    backend: str | None = None

    def visible_queries(self) -> Tensor:
        """How many queries can see each key: fp32 `[B, N]`, 0 at padding."""
        tokens = self.tokens.float()
        n = tokens.shape[1]
        before = torch.nn.functional.pad(tokens.cumsum(1), (1, 0))  # before[j]: tokens at positions < j
        positions = torch.arange(n, device=tokens.device)
        left, right = self.window or (n, n)
        first = positions if self.causal else (positions - right).clamp_min(0)
        last = (positions + left + 1).clamp_max(n)
        return (before[:, last] - before[:, first]) * tokens


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
    """transformers' attention contract: query `[B, Hq, N, D]`, key and value `[B, Hkv, N, D]` → `[B, N, Hq, D]`."""
    if "cu_seq_lens_q" in kwargs:
        raise MghError("packed batches (cu_seq_lens) are not supported by the backbone: pass a padded batch and its mask")
    record: AttentionRecord | None = kwargs.pop(RECORD, None)
    if record is None or record.layer != module.layer_idx:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if dropout:
        raise MghError(f"the backbone asks for attention dropout {dropout}; column sums are defined without it")
    # The keyword says what the masks were built for; `module.is_causal` stays True on a decoder made bidirectional.
    causal = kwargs.get("is_causal")
    if causal is None:
        causal = bool(module.is_causal)
    result = ata_attention(
        query,
        key,
        value,
        causal=causal,
        scale=scaling,
        window=_window(sliding_window, causal),
        key_padding_mask=record.tokens,
    )
    # Checkpointing runs this again in the backward pass; the pooling already holds the first run's tensor.
    if record.column_sums is None:
        record.column_sums, record.backend = result.column_sums, result.backend
        record.causal, record.window = causal, _window(sliding_window, causal)
    return result.out.transpose(1, 2).contiguous(), None


def _window(sliding_window: int | None, causal: bool) -> tuple[int, int] | None:
    """transformers' masks: a causal window counts the query itself, a bidirectional one does not."""
    if sliding_window is None:
        return None
    return (sliding_window - 1, 0) if causal else (sliding_window, sliding_window)


AttentionInterface.register(IMPLEMENTATION, attention_forward)
# Without a mask function under the same name, transformers would pass no mask at all and padding would be attended to.
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
