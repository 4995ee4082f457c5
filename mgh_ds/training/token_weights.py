"""Which tokens a model pools most of: the weights behind the report's heat map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.schema import Record


@torch.no_grad()
def text_weights(
    model: EmbeddingModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    label: str,
    instruction: str | None = None,
) -> list[dict[str, Any]]:
    """For each text, read under the instruction if there is one, its tokens and their pooling weights, which
    sum to 1; entries of a run folder's `token_weights.json`."""
    was_training, device = model.training, model.device
    model.eval()
    entries = []
    for text in texts:
        batch = tokenizer.tokenize([text], [instruction]).to(device)
        [weights] = batch.unpacked(model.token_weights(batch))
        [ids] = batch.unpacked(batch.input_ids)
        tokens = tokenizer.backend.convert_ids_to_tokens(ids)
        entries.append({"label": label, "text": text, "tokens": tokens, "weights": weights.tolist()})
    model.train(was_training)
    return entries


def retrieved_weights(
    model: EmbeddingModel,
    tokenizer: Tokenizer,
    retrieved: Mapping[str, Any],
    records: Sequence[Record],
    label: str,
) -> list[dict[str, Any]]:
    """As `text_weights`, of what a result keeps of retrieval: its queries, as they were read, with their
    `instruction`, and the documents found. A text that the result has cut is none of the records', so
    it was not read like this, and is left out. Weights have four digits: there are many."""
    known = {text for r in records for text in (r.query, r.positive, *(n.text for n in r.negatives))}
    read: dict[str | None, dict[str, None]] = {}  # instruction → texts, in their order
    for query in retrieved["queries"]:
        read.setdefault(query["instruction"], {})[query["query"]] = None
        read.setdefault(None, {}).update((found["text"], None) for found in query["found"])
    entries = []
    for instruction, texts in read.items():
        chosen = [text for text in texts if text in known]
        for entry in text_weights(model, tokenizer, chosen, label, instruction):
            weights = [float(f"{weight:.4g}") for weight in entry["weights"]]
            entries.append(entry | {"weights": weights, "instruction": instruction})
    return entries
