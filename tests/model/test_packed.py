"""Packed batches: the same embeddings and gradients as padded ones, and no text sees another.

Tolerance: both kinds do the same sums in fp32, in another order; that leaves about 1e-7 of a unit vector, and
`ROUNDING` is a hundred times that. A text that saw another would be off by 1e-2 and more.
"""

import json
import shutil

import pytest
import torch
from ata_attention import transformers as attention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import first_position
from mgh_ds.model.batches import PackedBatch, PaddedBatch
from mgh_ds.model.config import ModelConfig, PoolingConfig
from mgh_ds.model.embedder import build_model, load_model
from mgh_ds.model.pooling import Pooling
from mgh_ds.model.settings import Settings
from tests.model.conftest import FAMILIES, TEXTS

ROUNDING = 1e-5
POOLINGS = [
    *(
        {"method": "ata", "column_transform": name}
        for name in ("identity", "log1p", "sqrt", "softmax", "visible_mean")
    ),
    *({"method": "ata", "sink": name} for name in ("first", "clip")),
    *({"method": name} for name in ("mean", "weighted_mean", "cls", "last")),
]


def both(tokenizer, texts=TEXTS, instructions=None):
    """The same texts packed and padded."""
    batches = []
    for tokenizer.padding_free in (True, False):
        batches.append(tokenizer.tokenize(texts, instructions))
    return batches


def near(found, expected):
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_pooling_gives_the_padded_embeddings(family, bidirectional, load):
    model, tokenizer = load(family, bidirectional=bidirectional, include_bos=False)
    packed, padded = both(tokenizer, instructions=["Find it.", None, None, "Find it."])
    assert isinstance(packed, PackedBatch)
    assert isinstance(padded, PaddedBatch)
    assert (packed.texts, packed.tokens) == (padded.texts, padded.tokens) == (4, packed.input_ids.numel())
    for options in POOLINGS:
        model.pooling = Pooling(PoolingConfig(**options))
        near(model(packed), model(padded))
        near(model.token_weights(packed), model.token_weights(padded)[padded.attention_mask])


def moved_adapters(folder, **options):
    """A model in training whose adapters are no longer zero, which would hide half of the gradient."""
    model, tokenizer = build_model(ModelConfig(name_or_path=str(folder), max_length=64, **options), seed=3)
    random = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the layouts would draw different masks
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    return model.train(), tokenizer


def gradients(model, batch):
    model.zero_grad()
    (model(batch) @ torch.linspace(-1, 1, model.dim)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_get_the_padded_gradients(family, bidirectional, folders):
    """To 1e-4 of a tensor's largest entry: fp32, through up to six layers, forth and back."""
    pooling = PoolingConfig(column_transform="visible_mean", layers=[0, -1])
    model, tokenizer = moved_adapters(folders[family], pooling=pooling, bidirectional=bidirectional)
    packed, padded = (gradients(model, batch) for batch in both(tokenizer))
    for name, expected in padded.items():
        assert expected.abs().max() > 0
        assert (packed[name] - expected).abs().max() < 1e-4 * expected.abs().max(), name
    # The part that flows through the column sums is not lost in that tolerance.
    model.pooling = Pooling(
        PoolingConfig(column_transform="visible_mean", layers=[0, -1], detach_weights=True)
    )
    detached = gradients(model, both(tokenizer)[0])
    query = [name for name in padded if "lora_B" in name and "q" in name.split(".lora_")[0].split(".")[-1]][
        -1
    ]
    assert (detached[query] - packed[query]).abs().max() > 0.01 * packed[query].abs().max()


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_sees_another(family, bidirectional, load):
    """Bit for bit where other texts change, and not at all in the gradient."""
    model, tokenizer = load(family, bidirectional=bidirectional, padding_free=True)
    batch = tokenizer.tokenize(TEXTS)
    start, stop = batch.cu_seqlens[2:4].tolist()
    changed = batch._replace(input_ids=batch.input_ids.clone())
    changed.input_ids[start + 1 : stop - 1] = changed.input_ids[start + 1 : stop - 1].flip(0)
    with torch.no_grad():
        found, expected = model(changed), model(batch)
    others = [0, 1, 3]
    assert torch.equal(found[others], expected[others])
    assert (found[2] - expected[2]).abs().max() > 1e-3

    embedded = []
    table = model.backbone.get_input_embeddings()
    hook = table.register_forward_hook(lambda _, __, out: embedded.append(out))
    (gradient,) = torch.autograd.grad(model(batch)[2].square().cumsum(0).sum(), embedded)
    hook.remove()
    outside = torch.ones(batch.tokens, dtype=torch.bool)
    outside[start:stop] = False
    assert (gradient[0, outside] == 0).all()
    assert (gradient[0, ~outside].abs().amax(1) > 0).all()


@torch.no_grad()
def test_the_order_of_the_texts_does_not_matter(load):
    model, tokenizer = load("minilm", padding_free=True)
    near(model(tokenizer.tokenize(TEXTS[::-1])).flip(0), model(tokenizer.tokenize(TEXTS)))


@torch.no_grad()
def test_the_same_pack_gives_the_same_bits(load):
    model, tokenizer = load("qwen2", padding_free=True)
    batch = tokenizer.tokenize(TEXTS)
    assert torch.equal(model(batch), model(batch))


@pytest.mark.parametrize("family", ["minilm", "roberta", "mistral"])
@torch.no_grad()
def test_positions_begin_anew_at_each_text(family, load):
    model, tokenizer = load(family, padding_free=True)
    batch = tokenizer.tokenize(TEXTS)
    seen = []
    model.backbone.register_forward_pre_hook(lambda *arguments: seen.append(arguments[-1]), with_kwargs=True)
    model(batch)
    first = first_position(model.backbone.config)
    assert first == (0 if family != "roberta" else model.backbone.config.pad_token_id + 1)
    expected = [first + place for n in batch.lengths.tolist() for place in range(n)]
    assert seen[0]["position_ids"].tolist() == [expected]


@pytest.mark.parametrize("family", ["minilm", "roberta", "distilbert", "electra"])
@torch.no_grad()
def test_a_pack_may_be_longer_than_the_positions(family, load):
    model, tokenizer = load(family, padding_free=True)
    many = [f"{text} {i}" for i in range(25) for text in TEXTS]
    batch = tokenizer.tokenize(many)
    assert batch.tokens > 2 * model.backbone.config.max_position_embeddings
    near(model(batch)[-4:], model(tokenizer.tokenize(many[-4:])))


def windowed(folders, tmp_path, family, bidirectional, **changes):
    """A model like the family's, with a sliding window of 4 tokens, which pools by all of its layers."""
    folder = shutil.copytree(folders[family], tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    config |= {"sliding_window": 4, "use_sliding_window": True} | changes
    (folder / "config.json").write_text(json.dumps(config))
    pooling = PoolingConfig(column_transform="visible_mean", layers=[0, 1, 2])
    return load_model(folder, Settings(pooling=pooling, bidirectional=bidirectional))


MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
WINDOWED = [("mistral", {}), ("phi3", {}), ("qwen2", MIXED), ("qwen3", MIXED), ("smollm3", MIXED)]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("method", ["ata", "mean"])
@pytest.mark.parametrize(("family", "changes"), WINDOWED)
@torch.no_grad()
def test_sliding_windows_are_honoured_layer_by_layer(
    family, changes, method, bidirectional, folders, load, tmp_path
):
    """By the layers with column sums (ata) and by those without (mean)."""
    model, tokenizer = windowed(folders, tmp_path, family, bidirectional, **changes)
    packed, padded = both(tokenizer)
    _, collector = model.states(packed)
    limited = (4, 4) if bidirectional else (3, 0)
    windows = [limited, None if changes else limited, limited]
    assert [collector.by_layer[layer].window for layer in range(3)] == windows
    model.pooling = Pooling(model.pooling.config.replace(method=method))
    near(model(packed), model(padded))
    without, _ = load(family, bidirectional=bidirectional, method=method)
    assert (without(packed) - model(packed)).abs().max() > 1e-3, "the window is too wide to prove anything"


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", ["modernbert", "gemma2", "gemma3_text"])
@torch.no_grad()
def test_a_familys_own_windows_reach_the_column_sums(family, bidirectional, load):
    model, tokenizer = load(family, bidirectional=bidirectional, padding_free=True, layers=[0, 1, 2])
    _, collector = model.states(tokenizer.tokenize(TEXTS))
    limited = (4, 4) if bidirectional or family == "modernbert" else (3, 0)
    windows = [None, limited, limited] if family == "modernbert" else [limited, None, limited]
    assert [collector.by_layer[layer].window for layer in range(3)] == windows


class Largest(TorchDispatchMode):
    """Watches for tensors with two axes of `tokens` or more."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.found = tokens, []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **options or {})
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor) and sum(size >= self.tokens for size in made.shape) > 1:
                self.found.append((function, made.shape))
        return result


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gemma2", "mistral", "qwen3"])
@torch.no_grad()
def test_no_mask_is_made(family, bidirectional, folders, tmp_path):
    """The layers get None, sliding windows or not, and nothing of T × T is made on the way."""
    if family in ("bert", "modernbert", "gemma2"):  # without windows, and with their own
        model, tokenizer = load_model(folders[family], Settings(bidirectional=bidirectional))
    else:
        model, tokenizer = windowed(
            folders, tmp_path, family, bidirectional, **MIXED if family == "qwen3" else {}
        )
    batch = tokenizer.tokenize(TEXTS * 20)
    assert batch.tokens > 1000, "more than any other size in the models"
    masks = []

    def spy(module, query, key, value, attention_mask, **options):
        masks.append(attention_mask)
        return attention.attention_forward(module, query, key, value, attention_mask, **options)

    AttentionInterface.register(attention.IMPLEMENTATION, spy)
    try:
        with Largest(batch.tokens) as watch:
            model(batch)
    finally:
        attention.register()
    assert masks == [None] * model.backbone.config.num_hidden_layers
    assert watch.found == []


@pytest.mark.parametrize("layers", [[-1], [0, -1]])
@torch.no_grad()
def test_only_the_layers_of_the_pooling_run_the_column_sum_attention(layers, load, monkeypatch):
    ran = []
    for name in ("ata_attention", "packed_attention"):
        original = getattr(attention, name)

        def spy(*arguments, name=name, original=original, **options):
            ran.append((name, options["cu_seqlens"].dtype, options["max_seqlen"]))
            return original(*arguments, **options)

        monkeypatch.setattr(attention, name, spy)
    model, tokenizer = load("llama", padding_free=True, layers=layers)
    batch = tokenizer.tokenize(TEXTS)
    model(batch)
    expected = ["ata_attention" if i in model.layers else "packed_attention" for i in range(3)]
    assert ran == [(name, torch.int32, batch.max_seqlen) for name in expected]


def test_activation_checkpointing_changes_no_bit(folders):
    pooling = PoolingConfig(layers=[0, -1])
    found = []
    for checkpointing in (False, True):
        model, tokenizer = moved_adapters(
            folders["mistral"], pooling=pooling, activation_checkpointing=checkpointing
        )
        found.append(gradients(model, tokenizer.tokenize(TEXTS)))
    plain, again = found
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_reentrant_checkpointing_is_refused(load):
    model, tokenizer = load("mistral", padding_free=True)
    model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(MghError, match="use_reentrant"):
        model.train()(tokenizer.tokenize(TEXTS))


@pytest.mark.parametrize("method", ["ata", "mean"])
def test_attention_dropout_is_refused(method, load):
    model, tokenizer = load("mistral", padding_free=True, method=method)
    for layer in model.backbone.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(MghError, match=r"dropout 0\.1"):
        model.train()(tokenizer.tokenize(TEXTS))


def test_another_attention_implementation_is_noticed(load):
    model, tokenizer = load("qwen3", padding_free=True)
    model.backbone.set_attn_implementation("sdpa")
    with pytest.raises(MghError, match="attn_implementation"):
        model(tokenizer.tokenize(TEXTS))


@pytest.mark.parametrize("padding_free", [True, False])
def test_a_batch_without_texts_is_refused(padding_free, load):
    model, tokenizer = load("mistral", padding_free=padding_free)
    batch = tokenizer.tokenize([])
    assert (batch.texts, batch.tokens) == (0, 0)
    with pytest.raises(MghError, match="holds no texts"):
        model(batch)


@torch.no_grad()
def test_half_precision_gives_nearly_the_same_vectors(load):
    model, tokenizer = load("qwen3", padding_free=True)
    batch = tokenizer.tokenize(TEXTS)
    exact = model(batch)
    found = model.bfloat16()(batch)
    assert found.dtype == torch.float32
    assert (found * exact).sum(1).min() > 0.99


@settings(deadline=None, max_examples=25)
@given(data=st.data(), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6))
@torch.no_grad()
def test_any_layout_gives_the_padded_embeddings(data, lengths, any_model):
    rows = []
    for n in lengths:
        ids = data.draw(st.lists(st.integers(5, 99), min_size=n, max_size=n))
        rows.append((ids, data.draw(st.lists(st.booleans(), min_size=n, max_size=n))))
    packed = PackedBatch.of(rows)
    assert packed.max_seqlen == max(lengths)
    assert [len(ids) for ids in packed.unpacked(packed.input_ids)] == lengths
    side = data.draw(st.sampled_from(["left", "right"]))
    near(any_model(packed), any_model(PaddedBatch.of(rows, 0, side)))


@pytest.fixture(scope="module", params=[True, False], ids=["bidirectional", "causal"])
def any_model(request, folders):
    pooling = PoolingConfig(column_transform="visible_mean", layers=[-1, -2])
    return load_model(folders["mistral"], Settings(pooling=pooling, bidirectional=request.param))[0]
