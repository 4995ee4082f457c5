"""Where a model's attention goes, by layer and head, and the token weights that each treatment makes of it.

Nothing here needs an attention matrix: the attention that a token receives is its column sum, which the
registered attention leaves of any layer that is asked for.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, get_args

import torch
from ata_attention.transformers import ColumnSumCollector
from torch import Tensor
from torch.nn import functional

from mgh_ds.common.errors import MghError
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.config import ColumnTransform, PoolingConfig, SinkTreatment
from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.pooling import Pooling, heads_last
from mgh_ds.model.tokens import Tokenizer

KINDS = ("first", "special", "punctuation", "rest")
BATCH = 16
SHOWN = 8


def measure(encoder: Encoder, texts: Sequence[str]) -> dict[str, Any]:
    """Figures of `texts` (one or more), as plain data.

    kinds    by kind of token, each token being of the first kind that fits (its text's first token, special,
             punctuation, the rest): `tokens`, their share of a text's tokens, and `attention`, by layer and
             head the share of the attention that they receive, `Σ_j c_hj / n`; both in 0..1, and means over
             the texts
    shown    the first `SHOWN` texts: their tokens and, by column transform and sink, the weights under ATA
             with what else the model's pooling says (its layers, what may be pooled, `clip_multiple`)

    Raises MghError for no text, for one without a token, and for attention that is NaN or infinite.
    """
    if not texts:
        raise MghError("there is no text whose attention could be measured")
    model, tokenizer = encoder.model, encoder.tokenizer
    count = model.backbone.config.num_hidden_layers
    probe = EmbeddingModel(model.backbone, Pooling(PoolingConfig(layers=list(range(count))))).eval()
    device = model.device
    attention, tokens, shown = [], [], []
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            batch = tokenizer.tokenize(part).to(device)
            for place in (batch.lengths == 0).nonzero().flatten().tolist():
                raise MghError(f"text {start + place} has no token: {part[place]!r}")
            _, collector = probe.states(batch)
            assert collector is not None
            # [n, L, H] of each text, the heads last in every layer
            received = [heads_last(layer.column_sums) for layer in collector.by_layer.values()]
            for ids, sums in zip(
                batch.unpacked(batch.input_ids), batch.unpacked(torch.stack(received, -2)), strict=True
            ):
                kinds = functional.one_hot(kinds_of(ids.tolist(), tokenizer), len(KINDS)).to(sums)
                attention.append(torch.einsum("nlh,nk->klh", sums, kinds).cpu() / len(ids))
                tokens.append(kinds.mean(0).cpu())
            if start < SHOWN:
                shown += _weighted(model, tokenizer, batch, collector, part)[: SHOWN - start]
    shares = torch.stack(attention).mean(0)
    if not shares.isfinite().all():
        raise MghError(
            f"the attention of {encoder.name} holds NaN or infinity (in {model.backbone.dtype}): "
            "Encoder.encode of the same texts says where it comes from"
        )
    return {
        "model": encoder.name,
        "causal": encoder.causal,
        "texts": len(texts),
        "layers": shares.shape[1],
        "heads": shares.shape[2],
        "pooled_layers": model.layers,
        "clip_multiple": model.pooling.config.clip_multiple,
        "kinds": {
            kind: {"tokens": share.item(), "attention": heads.tolist()}
            for kind, share, heads in zip(KINDS, torch.stack(tokens).mean(0), shares, strict=True)
        },
        "shown": shown,
    }


def kinds_of(ids: Sequence[int], tokenizer: Tokenizer) -> Tensor:
    """The kind of each token of a text, as its place in `KINDS`: int64 `[n]`."""
    special = set(tokenizer.backend.all_special_ids)
    return torch.tensor(
        [
            0 if place == 0 else 1 if token in special else 2 if _is_punctuation(token, tokenizer) else 3
            for place, token in enumerate(ids)
        ]
    )


def _is_punctuation(token: int, tokenizer: Tokenizer) -> bool:
    text = tokenizer.backend.decode([token]).strip()
    return bool(text) and all(unicodedata.category(character).startswith("P") for character in text)


def _weighted(
    model: EmbeddingModel,
    tokenizer: Tokenizer,
    batch: TokenBatch,
    collector: ColumnSumCollector,
    texts: Sequence[str],
) -> list[dict[str, Any]]:
    """Of each text its tokens, and their weights under every transform and treatment."""
    pooled = {layer: collector.by_layer[layer] for layer in model.layers}
    own = ColumnSumCollector(model.layers, batch.token_mask, pooled)

    def weights(transform: str, sink: str) -> list[Tensor]:
        config = model.pooling.config.replace(method="ata", column_transform=transform, sink=sink)
        return batch.unpacked(Pooling(config).weights(batch, own))

    treated = {
        transform: {sink: weights(transform, sink) for sink in get_args(SinkTreatment)}
        for transform in get_args(ColumnTransform)
    }
    return [
        {
            "text": text,
            "tokens": tokenizer.backend.convert_ids_to_tokens(ids.tolist()),
            "weights": {
                transform: {sink: texts_weights[place].tolist() for sink, texts_weights in by_sink.items()}
                for transform, by_sink in treated.items()
            },
        }
        for place, (text, ids) in enumerate(zip(texts, batch.unpacked(batch.input_ids), strict=True))
    ]
