"""The Triton kernels inside the embedding model, packed and padded, against the portable backend."""

import pytest
import torch
from ata_attention import ata_attention, transformers

from mgh_ds.model.config import LoraConfig, ModelConfig, PoolingConfig
from mgh_ds.model.embedder import build_model

pytestmark = pytest.mark.usefixtures("quick_interpreter")

TEXTS = ["A short text.", "Which of the two texts is the longer one, this or that?", "a"]


@pytest.mark.parametrize("padding_free", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(("family", "sink"), [("mistral", "keep"), ("bert", "keep"), ("bert", "clip")])
def test_embeddings_and_gradients_are_the_portable_backends(family, sink, padding_free, monkeypatch):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = ModelConfig(
        name_or_path=f"tiny-random/{family}",
        pooling=PoolingConfig(sink=sink, clip_multiple=1.2),
        lora=LoraConfig(dropout=0.0),
        padding_free=padding_free,
        max_length=64,
        activation_checkpointing=True,
    )
    model, tokenizer = build_model(config)
    model.to(device).train()
    batch = tokenizer.tokenize(TEXTS).to(device)
    found = []
    for backend in ("triton", "chunked"):
        ran = []

        def observed(*inputs, ran=ran, backend=backend, **options):
            result = ata_attention(*inputs, backend=backend, **options)
            ran.append(result.backend)
            return result

        monkeypatch.setattr(transformers, "ata_attention", observed)
        model.zero_grad()
        vectors = model(batch)
        (vectors @ vectors.T).sum().backward()
        # Once in the forward pass and once when the checkpoint is computed again.
        assert ran == [backend] * 2
        found.append([vectors, *(w.grad for w in model.parameters() if w.grad is not None)])
    assert len(found[0]) == len(found[1]) > 1
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
