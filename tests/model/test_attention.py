"""The registered attention on each family: which tokens attend to which, the collected column sums, and what
flows back through them.
"""

import shutil

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import first_position
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.embedder import build_model, load_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.export import export
from mgh_ds.model.settings import Settings
from tests.model.conftest import DECODERS, FAMILIES, TEXTS

# What fp32 leaves after six layers: about 1e-6 of states of size 1, and ten times that for a safety margin.
ROUNDING = 1e-5
# Of each family: the matrix that makes the queries.
QUERIES = tuple(f"{name}.weight" for name in ("q_proj", "query", "q_lin", "qkv_proj", "Wqkv"))


def first_state_moves(model, tokenizer) -> bool:
    """Whether the first token's final state depends on the last token of a text."""
    batch = tokenizer.tokenize(["the first fish crawled onto land"])
    changed = batch._replace(input_ids=batch.input_ids.clone())
    last = -2 if tokenizer.closes else -1
    changed.input_ids[..., last] = tokenizer.backend.convert_tokens_to_ids("a")
    states = [batch.unpacked(model.states(read)[0])[0][0] for read in (batch, changed)]
    return (states[0] - states[1]).abs().max().item() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_first_token_sees_the_last_also_after_saving_and_loading(family, load, tmp_path):
    model, tokenizer = load(family)
    assert first_state_moves(model, tokenizer)
    export(model, tokenizer, tmp_path / "saved", card="")
    again = Encoder.from_pretrained(tmp_path / "saved")
    assert first_state_moves(again.model, again.tokenizer)
    # Plain transformers, which knows nothing of ours, finds it in the config.
    plain = AutoModel.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    states = plain(ids).last_hidden_state[:, 0]
    assert (states[0] - states[1]).abs().max() > 1e-4


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_a_decoder_left_causal_does_not_attend_ahead_also_after_saving_and_loading(family, load, tmp_path):
    model, tokenizer = load(family, bidirectional=False)
    assert not first_state_moves(model, tokenizer)
    export(model, tokenizer, tmp_path / "saved", card="")
    again = Encoder.from_pretrained(tmp_path / "saved")
    assert not first_state_moves(again.model, again.tokenizer)
    # An explicit option outweighs what the folder says.
    other = Encoder.from_pretrained(tmp_path / "saved", bidirectional=True)
    assert first_state_moves(other.model, other.tokenizer)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_left_and_right_padding_agree(family, bidirectional, load):
    model, tokenizer = load(family, bidirectional=bidirectional, column_transform="log1p")
    right = tokenizer.tokenize(TEXTS)
    tokenizer.padding_side = "left"
    left = tokenizer.tokenize(TEXTS)
    assert not left.attention_mask[1, 0]
    assert not right.attention_mask[1, -1]
    torch.testing.assert_close(model(left), model(right), atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_embedding_does_not_depend_on_its_batch(family, load):
    """Beyond rounding: a matrix product may add in another order when the shape around a text changes."""
    model, tokenizer = load(family)
    together = model(tokenizer.tokenize(TEXTS))
    alone = torch.cat([model(tokenizer.tokenize([text])) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_collected_column_sums_are_eager_attentions(family, bidirectional, load, folders):
    model, tokenizer = load(family, bidirectional=bidirectional)
    batch = tokenizer.tokenize(TEXTS)
    hidden, collector = model.states(batch)
    [collected] = collector.by_layer.values()
    assert collected.backend == "chunked"
    eager_hidden, expected = eager(eager_model(folders[family], bidirectional), batch)
    torch.testing.assert_close(collected.column_sums, expected, atol=1e-4, rtol=1e-4)
    at = batch.attention_mask
    torch.testing.assert_close(hidden[at], eager_hidden[at], atol=1e-4, rtol=1e-4)
    # Not uniform: in each text some token has a tenth more than its even share at least.
    weights = model.token_weights(batch)
    assert ((weights.max(1).values * at.sum(1)) > 1.1).all()


@pytest.mark.parametrize("family", ["minilm", "mistral"])
@torch.no_grad()
def test_each_layer_asked_for_leaves_its_own_column_sums(family, load, folders):
    model, tokenizer = load(family, layers=[0, -2])
    batch = tokenizer.tokenize(TEXTS)
    _, collector = model.states(batch)
    count = model.backbone.config.num_hidden_layers
    assert list(collector.by_layer) == [0, count - 2]
    reference = eager_model(folders[family], bidirectional=True)
    for layer, collected in collector.by_layer.items():
        _, expected = eager(reference, batch, layer)
        torch.testing.assert_close(collected.column_sums, expected, atol=1e-4, rtol=1e-4)


def eager(model, batch, layer=-1):
    """Final states, and a layer's column sums over real queries, from the whole attention matrix."""
    output = model(**batch.backbone_inputs(first_position(model.config)), output_attentions=True)
    queries = batch.attention_mask[:, None, :, None]
    return output.last_hidden_state, (output.attentions[layer] * queries).sum(2)


def eager_model(folder, bidirectional):
    """The backbone with transformers' own eager attention."""
    config = AutoConfig.from_pretrained(folder)
    config.is_causal = config.model_type in DECODERS and not bidirectional
    model = AutoModel.from_pretrained(folder, config=config, attn_implementation="eager")
    if hasattr(model, "pooler"):
        model.pooler = None
    return model.eval()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_through_the_column_sums_is_eager_autograds(family, checkpointing, load, folders):
    """Of every weight, to a thousandth of its largest entry: fp32, summed in another order."""
    model, tokenizer = load(family)
    if checkpointing:
        model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()  # checkpointing is for training only; there is no dropout to differ by
    batch = tokenizer.tokenize(TEXTS)
    target = torch.linspace(-1, 1, model.dim)
    (model(batch) @ target).sum().backward()

    reference = eager_model(folders[family], bidirectional=True)
    hidden, sums = eager(reference, batch)
    expected = gradients(reference, hidden, sums, batch.pooling_mask, target)
    for name, parameter in model.backbone.named_parameters():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-3 * scale + 1e-7, rtol=0)
    # The part that flows through the weights is not lost in that tolerance.
    detached = gradients(reference, hidden, sums.detach(), batch.pooling_mask, target)
    last = [name for name in expected if name.endswith(QUERIES)][-1]
    rows = slice(0, model.dim)  # of the queries, where one matrix makes keys and values too
    moved = expected[last][rows] - detached[last][rows]
    assert moved.abs().max() > 0.05 * expected[last][rows].abs().max()


def gradients(model, hidden, sums, pooling_mask, target) -> dict[str, torch.Tensor]:
    """Of `target·e` for each parameter, with the pooling written out."""
    weights = sums.sum(1) * pooling_mask
    pooled = (weights[..., None] * hidden).sum(1) / weights.sum(1, keepdim=True)
    loss = (nn.functional.normalize(pooled, dim=-1) @ target).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))


def test_reentrant_checkpointing_is_refused(load):
    """It would lose the gradient through the column sums, silently."""
    model, tokenizer = load("mistral")
    model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(MghError, match="use_reentrant"):
        model.train()(tokenizer.tokenize(TEXTS))


def test_adapters_get_the_same_gradient_with_checkpointing_and_a_seed_repeats_their_dropout(folders):
    gradients = []
    for checkpointing in (False, True):
        config = ModelConfig(
            name_or_path=str(folders["mistral"]), max_length=64, activation_checkpointing=checkpointing
        )
        model, tokenizer = build_model(config, seed=3)
        torch.manual_seed(0)
        model.train()(tokenizer.tokenize(TEXTS)).square().sum(0).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("bidirectional", [True, False])
@torch.no_grad()
def test_a_sliding_window_reaches_the_column_sums(bidirectional, folders, tmp_path):
    """Mistral's window, as transformers' own masks have it in eager attention."""
    config = AutoConfig.from_pretrained(folders["mistral"])
    config.sliding_window = 4
    AutoModel.from_pretrained(folders["mistral"], config=config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["mistral"] / name).read_bytes())
    model, tokenizer = load_model(tmp_path, Settings(bidirectional=bidirectional), padding_free=False)
    batch = tokenizer.tokenize(TEXTS)
    hidden, collector = model.states(batch)
    [collected] = collector.by_layer.values()
    eager_hidden, sums = eager(eager_model(tmp_path, bidirectional), batch)
    torch.testing.assert_close(collected.column_sums, sums, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        hidden[batch.attention_mask], eager_hidden[batch.attention_mask], atol=1e-4, rtol=1e-4
    )
    assert collected.window == ((4, 4) if bidirectional else (3, 0))


def test_training_mode_adds_no_dropout_to_the_backbone(load):
    model, tokenizer = load("minilm")  # whose config asks for 0.1
    batch = tokenizer.tokenize(TEXTS)
    assert torch.equal(model.eval()(batch), model.train()(batch))


def test_another_attention_implementation_is_noticed(load):
    model, tokenizer = load("qwen3")
    model.backbone.set_attn_implementation("sdpa")
    with pytest.raises(MghError, match="attn_implementation"):
        model(tokenizer.tokenize(TEXTS))


def test_only_ata_pooling_runs_the_column_sum_attention(load, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("ata_attention ran")

    monkeypatch.setattr("ata_attention.transformers.ata_attention", refuse)
    model, tokenizer = load("llama", method="mean")
    model(tokenizer.tokenize(TEXTS))
    model, tokenizer = load("llama")
    with pytest.raises(AssertionError, match="ran"):
        model(tokenizer.tokenize(TEXTS))


def test_attention_dropout_is_refused(load):
    model, tokenizer = load("mistral")
    for layer in model.backbone.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(MghError, match=r"dropout 0\.1"):
        model.train()(tokenizer.tokenize(TEXTS))


@torch.no_grad()
def test_a_gemma_that_its_authors_made_bidirectional_keeps_its_masks(folders, tmp_path):
    """EmbeddingGemma's way: a key of its own, and a window that counts otherwise."""
    config = AutoConfig.from_pretrained(folders["gemma3_text"])
    config.use_bidirectional_attention, config.sliding_window = True, 4  # 3 tokens on each side
    folder = shutil.copytree(folders["gemma3_text"], tmp_path / "gemma")
    config.save_pretrained(folder)
    reference = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model, tokenizer = load_model(folder, Settings(), padding_free=False)
    batch = tokenizer.tokenize(TEXTS)
    expected, sums = eager(reference, batch)
    hidden, collector = model.states(batch)
    [collected] = collector.by_layer.values()
    assert collected.window == (3, 3)
    torch.testing.assert_close(collected.column_sums, sums, atol=1e-4, rtol=1e-4)
    at = batch.attention_mask
    torch.testing.assert_close(hidden[at], expected[at], atol=1e-4, rtol=1e-4)
    export(model, tokenizer, tmp_path / "saved", card="")
    plain = AutoModel.from_pretrained(tmp_path / "saved", attn_implementation="eager").eval()
    torch.testing.assert_close(eager(plain, batch)[0][at], expected[at], atol=1e-4, rtol=1e-4)
