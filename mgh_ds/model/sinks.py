"""Treatments of attention sinks: tokens that swallow the attention of a text whatever they mean.

A softmax must give its weight to some token. Models learn to leave what they have no use for on one of the
first ("Efficient Streaming Language Models with Attention Sinks", ICLR 2024, section 3.1), and where the
tokenizer adds no BOS that one is a word. A treatment changes the weights of a text's tokens before they are
normalised, with gradient.
"""

import torch
from torch import Tensor

from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.config import PoolingConfig


def treated(weights: Tensor, batch: TokenBatch, config: PoolingConfig) -> Tensor:
    """Token weights `[B, N]` or `[T]`, 0 where nothing is pooled, after `config.sink`."""
    match config.sink:
        case "keep":
            return weights
        case "first":
            return first_as_others(weights, batch)
        case "clip":
            return clipped(weights, batch, config.clip_multiple)


def first_as_others(weights: Tensor, batch: TokenBatch) -> Tensor:
    """`w_1 = Σ_{j>1} w_j / (n - 1)` over a text's `n` pooled tokens, for the sink where a text begins: what
    the token means is neither lost nor louder than the rest. A text of one pooled token keeps its weight.
    """
    first = batch.first_pooled
    # The others are added without it: taken off a sum that it dominates, they would be lost in rounding.
    others = weights.masked_fill(first, 0)
    count = batch.total(batch.pooling_mask.float()) - 1
    mean = batch.total(others) / count.clamp_min(1)
    return torch.where(first & batch.spread(count > 0), batch.spread(mean), weights)


def clipped(weights: Tensor, batch: TokenBatch, multiple: float) -> Tensor:
    """`min(w_j, multiple · Σ_k w_k / n)` over a text's `n` pooled tokens, for sinks that may be anywhere;
    what stands out less stays as it is. `multiple` is 1 or more."""
    mean = batch.total(weights) / batch.total(batch.pooling_mask.float()).clamp_min(1)
    return torch.minimum(weights, batch.spread(multiple * mean))
