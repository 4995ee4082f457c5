"""From token states to one vector. Every method is a weighted mean, and is defined by its token weights."""

import torch
from ata_attention.transformers import ColumnSumCollector, LayerColumnSums
from torch import Tensor, nn

from mgh_ds.common.errors import MghError
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.sinks import treated
from mgh_ds.model.token_weights import POOLINGS

SMALLEST_SUM = 1e-12


class Pooling(nn.Module):
    """`e = Σ_j w_j h_j / Σ_j w_j` with the weights `w` of `config.method`.

    Anchor-token-aware pooling (ATA) weighs a token by the attention that it receives. With `c_hj = Σ_i P_hij`
    for head `h` of a layer: `w_j = m_j Σ_layers Σ_h f(c_hj)`, where `f` is `config.column_transform` and `m`
    the pooling mask ("Negative Matters", ACL 2025, on anchor-token-aware pooling). `config.sink` says what is
    done about tokens that swallow the attention (`sinks`).
    """

    def __init__(self, config: PoolingConfig) -> None:
        super().__init__()
        self.config = config
        self.reads_attention = POOLINGS[config.method].reads_attention

    def forward(
        self, hidden: Tensor, batch: TokenBatch, collector: ColumnSumCollector | None = None
    ) -> Tensor:
        """Pools `hidden [B, N, D]` or `[T, D]` to `[S, D]`, fp32; the other arguments as for `weights`."""
        weights = self._weights(batch, collector)
        return batch.weighted_sum(weights, hidden) / _divisor(weights, batch)[:, None]

    def weights(self, batch: TokenBatch, collector: ColumnSumCollector | None = None) -> Tensor:
        """Token weights `[B, N]` or `[T]`, fp32, those of each text summing to 1.

        `batch.pooling_mask` marks the tokens that may carry weight; `cls` and `last` name one token of the
        whole input, whatever the mask. A text whose weights all vanish (none of its tokens may be pooled)
        is pooled evenly over its tokens. `collector` is what the attention left behind; ATA raises MghError
        if it left nothing.
        """
        weights = self._weights(batch, collector)
        return weights / batch.spread(_divisor(weights, batch))

    def _weights(self, batch: TokenBatch, collector: ColumnSumCollector | None) -> Tensor:
        """Weights that do not sum to 1 yet: the sum is divided by once per text, and not once per token."""
        tokens = batch.token_mask.float()
        attention = [self._column_sums(batch, collector)] if self.reads_attention else []
        weights = tokens * POOLINGS[self.config.method].weigh(batch, *attention)
        if self.reads_attention:
            weights = treated(weights, batch, self.config)
        return torch.where(batch.spread(batch.total(weights)) > 0, weights, tokens)

    def _column_sums(self, batch: TokenBatch, collector: ColumnSumCollector | None) -> Tensor:
        if collector is None or len(collector.by_layer) < len(self.config.layers):
            raise MghError(
                "ATA pooling needs the column sums of its layers, but the attention left none: the backbone "
                "did not run the attention that mgh-ds registers (was its attn_implementation changed?)"
            )
        layers = [self._transformed(layer, batch) for layer in collector.by_layer.values()]
        return torch.stack(layers).sum(0)

    def _transformed(self, layer: LayerColumnSums, batch: TokenBatch) -> Tensor:
        """`Σ_h f(c_hj)`: heads are the second axis of padded and packed column sums alike."""
        sums = layer.column_sums.detach() if self.config.detach_weights else layer.column_sums
        match self.config.column_transform:
            case "identity":
                return sums.sum(1)
            case "log1p":
                return sums.log1p().sum(1)
            case "sqrt":
                # At 0, where padding is, the slope of the root is infinite.
                return sums.clamp_min(SMALLEST_SUM).sqrt().sum(1)
            case "softmax":
                return softmax_of_shares(heads_last(sums), batch).sum(-1)
            case "visible_mean":
                return sums.sum(1) / visible_queries(batch, layer).clamp_min(1)


def heads_last(column_sums: Tensor) -> Tensor:
    """A layer's column sums by token, `[B, N, H]` or `[T, H]`."""
    return column_sums if column_sums.dim() == 2 else column_sums.transpose(1, 2)


def softmax_of_shares(column_sums: Tensor, batch: TokenBatch) -> Tensor:
    """`exp(c_hj / n) / Σ_k exp(c_hk / n)` over a text's `n` tokens, 0 at padding; shapes as of `heads_last`.

    Of the shares, which lie between 0 and 1, and not of the sums: these grow with the text, and the heaviest
    token of a long one would get everything.
    """
    lengths = batch.spread(batch.lengths).clamp_min(1)
    powers = batch.token_mask[..., None] * (column_sums / lengths[..., None]).exp()
    return powers / batch.spread(batch.total(powers)).clamp_min(1)


def visible_queries(batch: TokenBatch, layer: LayerColumnSums) -> Tensor:
    """How many queries of its text see each key in that layer, itself among them: int64 `[B, N]` or `[T]`."""
    place, last = batch.position_ids, batch.spread(batch.lengths) - 1
    left, right = layer.window or (last, last)
    # Query i sees the keys i - left … i + right, so key j is seen by the queries j - right … j + left.
    first_query = place if layer.causal else (place - right).clamp_min(0)
    return torch.minimum(place + left, last) - first_query + 1


def _divisor(weights: Tensor, batch: TokenBatch) -> Tensor:
    """The sum of each text's weights `[S]`; for a text without tokens a number that is not 0."""
    return batch.total(weights).clamp_min(torch.finfo(weights.dtype).tiny)
