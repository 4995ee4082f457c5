"""From token states to one vector. Every method is a weighted mean, and is defined by its token weights."""

import torch
from torch import Tensor, nn

from mgh_ds.errors import MghError
from mgh_ds.model.attention import AttentionRecord
from mgh_ds.model.config import PoolingConfig


class Pooling(nn.Module):
    """`e = Σ_j w_j h_j` with the weights `w` of `config.method`.

    Anchor-token-aware pooling (ATA) weighs a token by the attention that it receives in the last layer. With
    `c_hj = Σ_i P_hij` for head `h`: `w_j ∝ m_j Σ_h f(c_hj)`, where `f` is `config.column_transform` and `m`
    the pooling mask ("Negative Matters", ACL 2025, on anchor-token-aware pooling).
    """

    def __init__(self, config: PoolingConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor,
        pooling_mask: Tensor,
        record: AttentionRecord | None = None,
    ) -> Tensor:
        """Pools `hidden [B, N, D]` to `[B, D]`, fp32; the other arguments as for `weights`."""
        weights = self.weights(attention_mask, pooling_mask, record)
        return torch.bmm(weights[:, None], hidden.float())[:, 0]

    def weights(
        self, attention_mask: Tensor, pooling_mask: Tensor, record: AttentionRecord | None = None
    ) -> Tensor:
        """Token weights `[B, N]`, fp32, each row summing to 1.

        `attention_mask [B, N]` marks the tokens and `pooling_mask [B, N]` those that may carry weight; `cls`
        and `last` name one token of the whole input and do not look at the latter. A row whose weights all
        vanish (none of its tokens may be pooled) is pooled evenly over its tokens. `record` is what the
        attention left behind; ATA raises MghError if it left nothing.
        """
        tokens = attention_mask.float()
        weights = self._raw_weights(tokens, pooling_mask.float() * tokens, record)
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, tokens)
        return weights / weights.sum(1, keepdim=True)

    def _raw_weights(self, tokens: Tensor, pooled: Tensor, record: AttentionRecord | None) -> Tensor:
        position = tokens.cumsum(1)  # 1 at the first token, whatever the padding
        match self.config.method:
            case "mean":
                return pooled
            case "weighted_mean":
                return pooled * position
            case "cls":
                return tokens * (position == 1)
            case "last":
                return tokens * (position == position[:, -1:])
            case "ata":
                return pooled * self._attention_received(record)

    def _attention_received(self, record: AttentionRecord | None) -> Tensor:
        if record is None or record.column_sums is None:
            raise MghError(
                "ATA pooling needs the last layer's column sums, but the attention left none: the backbone "
                "did not run the attention that mgh-ds registers (was its attn_implementation changed?)"
            )
        sums = record.column_sums.detach() if self.config.detach_weights else record.column_sums
        match self.config.column_transform:
            case "identity":
                return sums.sum(1)
            case "log1p":
                return sums.log1p().sum(1)
            case "visible_mean":
                return sums.sum(1) / record.visible_queries().clamp_min(1)
