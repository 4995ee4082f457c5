"""SmolLM2-135M-Instruct itself, dequantised from its package where no hub is reachable: its tokens, and what
the model's tests prove of random weights.

A trained decoder differs where it counts: an entry of one token's state is hundreds of times as large as any
of other tokens' (`test_its_states_hold_massive_outliers`), and much of the attention goes there.
"""

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from mgh_ds import Encoder
from mgh_ds.model.config import ModelConfig, PoolingConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.model.export import export
from mgh_ds.model.pooling import Pooling
from mgh_ds.model.weights import SMOLLM2
from tests.system.smollm2 import LENGTH, NEEDED, TEXTS, smollm2

pytestmark = NEEDED

# What fp32 leaves of a unit vector's entries after 30 layers, whatever the layout. 8e-7 was the most that was
# seen; a text that saw another would be off by 1e-2 and more.
ROUNDING = 1e-5
POOLINGS = [
    *({"column_transform": name} for name in ("identity", "log1p", "sqrt", "softmax", "visible_mean")),
    *({"sink": name} for name in ("first", "clip")),
    *({"method": name} for name in ("mean", "weighted_mean", "last")),
]
BOTH = pytest.mark.parametrize("bidirectional", [True, False], ids=["bidirectional", "causal"])
# From version 6 on, sentence-transformers imports classes of other packages only where it is told to.
OPTIONS = {} if int(sentence_transformers.__version__.split(".")[0]) < 6 else {"trust_remote_code": True}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(*smollm2(bidirectional=False, method="mean"))


def test_its_tokens_are_its_own(encoder: Encoder) -> None:
    backend = encoder.tokenizer.backend
    assert len(backend) == encoder.model.backbone.get_input_embeddings().num_embeddings == 49152
    # It neither opens nor closes a text; we append its EOS.
    assert not encoder.tokenizer.opens
    assert not encoder.tokenizer.closes
    assert encoder.tokenizer.appends
    special = backend.bos_token, backend.eos_token, backend.pad_token, backend.unk_token
    assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
    assert backend.convert_tokens_to_ids(list(special)) == [1, 2, 2, 0]
    assert backend.mask_token is None
    assert backend.convert_tokens_to_ids("_") == 79
    # Digits one by one, and before all else, so that the spaces before them stay together.
    assert backend.tokenize("In  2024 _") == ["In", "ĠĠ", "2", "0", "2", "4", "Ġ_"]
    text = "Grüße, 世界 🌍!"
    assert backend.decode(backend(text)["input_ids"]) == text
    prompt = backend.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_it_tells_what_is_near_from_what_is_far(encoder: Encoder) -> None:
    """Causal, by the mean of its tokens, as it comes."""
    threes = [  # a text, what means about the same, and what means something else
        ("A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell sharply."),
        ("The cat sleeps on the sofa.", "A kitten naps on the couch.", "Parliament passed the budget."),
        ("How do I reset my password?", "I forgot my login code.", "The recipe needs two eggs."),
        ("It will rain tomorrow.", "Showers are expected the next day.", "She bought a red bicycle."),
    ]
    vectors = encoder.encode([text for three in threes for text in three]).reshape(len(threes), 3, -1)
    text, near, far = vectors.transpose(1, 0, 2)
    assert ((text * near).sum(axis=1) > (text * far).sum(axis=1)).all()


@BOTH
@torch.no_grad()
def test_its_states_hold_massive_outliers(bidirectional: bool) -> None:
    """Without them the tests below would prove no more than those with random weights."""
    model, tokenizer = smollm2(bidirectional=bidirectional)
    seen = []
    hooks = [layer.register_forward_hook(lambda *of: seen.append(of[-1])) for layer in model.backbone.layers]
    model(tokenizer.tokenize(TEXTS))
    for hook in hooks:
        hook.remove()
    states = torch.stack([state.abs().flatten(0, -2).amax(-1) for state in seen])  # by layer and token
    assert states.max() > 10_000
    assert (states.amax(1) / states.median(1).values).max() > 100


@BOTH
@torch.no_grad()
def test_every_pooling_gives_the_padded_embeddings(bidirectional: bool) -> None:
    found = []
    for padding_free in (True, False):
        model, tokenizer = smollm2(bidirectional=bidirectional, padding_free=padding_free)
        batch = tokenizer.tokenize(TEXTS)
        states, collector = model.states(batch)
        poolings = [Pooling(PoolingConfig(**options)) for options in POOLINGS]
        vectors = [nn.functional.normalize(pooling(states, batch, collector)) for pooling in poolings]
        found.append(torch.stack(vectors))
    torch.testing.assert_close(*found, atol=ROUNDING, rtol=0)
    # The column sums of a trained model say something: their vectors are not the mean's.
    by_pooling = dict(zip(map(str, POOLINGS), found[0], strict=True))
    assert (by_pooling[str(POOLINGS[0])] - by_pooling["{'method': 'mean'}"]).abs().max() > 100 * ROUNDING


@BOTH
@torch.no_grad()
def test_only_a_bidirectional_decoder_sees_ahead(bidirectional: bool) -> None:
    """Exactly: what a causal token's state depends on, it has seen."""
    model, tokenizer = smollm2(bidirectional=bidirectional)
    batch = tokenizer.tokenize(TEXTS[:1])
    changed = batch._replace(input_ids=batch.input_ids.clone())
    changed.input_ids[-2] = tokenizer.backend.convert_tokens_to_ids("a")  # the last is EOS
    before, after = (model.states(read)[0] for read in (batch, changed))
    moved = (before - after).abs().amax(1) / before.abs().amax(1)
    assert (moved[-2:] > 0.01).all()
    assert (moved[:-2] > 0.01).all() if bidirectional else (moved[:-2] == 0).all()


@BOTH
def test_no_text_sees_another(bidirectional: bool) -> None:
    """Bit for bit where another text changes, and not at all in the gradient."""
    model, tokenizer = smollm2(bidirectional=bidirectional)
    batch = tokenizer.tokenize(TEXTS)
    start, stop = batch.cu_seqlens[2:4].tolist()
    changed = batch._replace(input_ids=batch.input_ids.clone())
    changed.input_ids[start + 1 : stop - 1] = changed.input_ids[start + 1 : stop - 1].flip(0)
    embedded: list[torch.Tensor] = []
    table = model.backbone.get_input_embeddings()
    hook = table.register_forward_hook(lambda *of: embedded.append(of[-1]))
    vectors = model(batch)
    hook.remove()
    with torch.no_grad():
        found = model(changed)
    others = [0, 1, 3]
    assert torch.equal(found[others], vectors[others])
    assert (found[2] - vectors[2]).abs().max() > 1e-3

    (gradient,) = torch.autograd.grad(vectors[2].square().cumsum(0).sum(), embedded)
    outside = torch.ones(batch.tokens, dtype=torch.bool)
    outside[start:stop] = False
    assert (gradient[0, outside] == 0).all()
    assert (gradient[0, ~outside].abs().amax(1) > 0).all()


def test_sentence_transformers_loads_what_export_writes(tmp_path) -> None:
    """With adapters that move the vectors, and the padded layout there against the packed one here."""
    pooling = PoolingConfig(column_transform="log1p", sink="first")
    model, tokenizer = build_model(ModelConfig(name_or_path=SMOLLM2, pooling=pooling, max_length=LENGTH))
    before = Encoder(model, tokenizer).encode(TEXTS)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05, generator=generator)
    vectors = Encoder(model, tokenizer).encode(TEXTS)
    assert (before * vectors).sum(1).max() < 0.999
    export(model, tokenizer, tmp_path / "out", card="")
    del model
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS).encode(TEXTS)
    ours = Encoder.from_pretrained(tmp_path / "out", device="cpu").encode(TEXTS)
    for again in (ours, theirs):
        assert (vectors * again).sum(1).min() >= 0.99999
        np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1, atol=1e-6)
