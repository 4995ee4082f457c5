"""Which tokens a model pools most of: the weights behind the report's heat map."""

from collections.abc import Sequence
from typing import Any

import torch

from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.model.tokens import Tokenizer


@torch.no_grad()
def text_weights(
    model: EmbeddingModel, tokenizer: Tokenizer, texts: Sequence[str], label: str
) -> list[dict[str, Any]]:
    """For each text its tokens and their pooling weights, which sum to 1; entries of a run folder's
    `token_weights.json`."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    entries = []
    for text in texts:
        batch = tokenizer.tokenize([text], None).to(device)
        [weights] = batch.unpacked(model.token_weights(batch))
        [ids] = batch.unpacked(batch.input_ids)
        tokens = tokenizer.backend.convert_ids_to_tokens(ids)
        entries.append({"label": label, "text": text, "tokens": tokens, "weights": weights.tolist()})
    model.train(was_training)
    return entries
