"""`ata_attention.transformers` alone, on tiny models with random weights, against transformers' own."""

from copy import deepcopy

import pytest
import torch
from ata_attention.transformers import ColumnSumCollector, UnsupportedAttention, register
from transformers import (
    AutoModel,
    BertConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LENGTHS = [7, 1, 4]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 50,
}
CONFIGS = {
    "bert": BertConfig(**SIZES, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0),
    "gemma2": Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, sliding_window=3, attn_logit_softcapping=1.0
    ),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=3),
    "modernbert": ModernBertConfig(
        **SIZES, local_attention=4, **dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id"), 0)
    ),
}
# Whose attention is the measure: transformers' SDPA leaves soft caps out.
MEASURE = {"gemma2": "eager"}
LAYERS = [0, 2]
# fp32, summed in another order.
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}

TOKENS = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
IDS = torch.randint(3, 50, TOKENS.shape, generator=torch.Generator().manual_seed(0))
PADDED = {"input_ids": IDS, "attention_mask": TOKENS.long()}
PACKED = {
    "input_ids": IDS[TOKENS][None],
    "attention_mask": torch.ones(1, 0),
    "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
    "cu_seq_lens_q": torch.tensor([0, 7, 8, 12], dtype=torch.int32),
    "cu_seq_lens_k": torch.tensor([0, 7, 8, 12], dtype=torch.int32),
    "max_length_q": 7,
    "max_length_k": 7,
}


def make_model(family: str, implementation: str):
    """The same weights for every implementation; larger than usual, so that attention is far from even."""
    torch.manual_seed(0)
    model = AutoModel.from_config(deepcopy(CONFIGS[family]), attn_implementation=implementation).eval()
    for name, weight in model.named_parameters():
        if any(part in name for part in ("q_proj", "k_proj", ".query.", ".key.", "Wqkv")):
            weight.data *= 10
    return model


def collect(model, inputs):
    """Last states, and the column sums of LAYERS; those of the packed batch are `[tokens, …]`."""
    mask = None if inputs is PACKED else inputs["attention_mask"]
    collector = ColumnSumCollector(LAYERS, mask)
    states = model(**inputs, column_sums=collector).last_hidden_state
    assert list(collector.by_layer) == LAYERS
    return states, [collector.by_layer[layer].column_sums for layer in LAYERS]


def eager(model):
    """The same of the padded batch, from the attention matrices."""
    output = model(**PADDED, output_attentions=True)
    queries = TOKENS[:, None, :, None]
    return output.last_hidden_state, [(output.attentions[layer] * queries).sum(2) for layer in LAYERS]


@pytest.mark.parametrize("family", CONFIGS)
def test_each_heads_column_sums_add_up_to_the_number_of_tokens(family):
    model = make_model(family, register())
    for sums in collect(model, PADDED)[1]:
        expected = torch.tensor(LENGTHS)[:, None].expand(3, 4).float()
        torch.testing.assert_close(sums.sum(-1), expected, **TOLERANCE)
        assert (sums[0].std(-1) > 0.01).all(), "even attention would prove little"
    for sums in collect(model, PACKED)[1]:
        for part, n in zip(sums.split(LENGTHS), LENGTHS, strict=True):
            torch.testing.assert_close(part.sum(0), torch.full((4,), float(n)), **TOLERANCE)


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_the_output_is_sdpas_padded_and_packed(family):
    expected = make_model(family, MEASURE.get(family, "sdpa"))(**PADDED).last_hidden_state[TOKENS]
    model = make_model(family, register())
    torch.testing.assert_close(collect(model, PADDED)[0][TOKENS], expected, **TOLERANCE)
    torch.testing.assert_close(collect(model, PACKED)[0][0], expected, **TOLERANCE)
    for inputs in (PADDED, PACKED):  # nobody asks for column sums
        states = model(**inputs).last_hidden_state
        torch.testing.assert_close(states[TOKENS] if inputs is PADDED else states[0], expected, **TOLERANCE)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("family", CONFIGS)
def test_column_sums_and_their_gradients_are_eager_attentions(family, layout):
    """Of the column sums alone: through the states the weights would get a gradient anyway."""
    reference, model = make_model(family, "eager"), make_model(family, register())
    expected = [sums.transpose(1, 2)[TOKENS] for sums in eager(reference)[1]]
    if layout == "packed":
        found = collect(model, PACKED)[1]
    else:
        found = [sums.transpose(1, 2)[TOKENS] for sums in collect(model, PADDED)[1]]
    factors = torch.linspace(-1, 1, expected[0].numel()).view_as(expected[0])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)
    for sums in (expected, found):
        sum((one * factors).sum() for one in sums).backward()
    largest = 0.0
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        if theirs.grad is None:  # eager attention's values: they come after the column sums
            assert ours.grad is None or not ours.grad.any(), name
            continue
        size = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4 * size + 1e-6, rtol=0)
        largest = max(largest, size)
    assert largest > 1e-2


def test_registering_again_changes_nothing():
    assert register() == register() == "ata_attention"
    before = ALL_ATTENTION_FUNCTIONS["ata_attention"]
    register()
    assert ALL_ATTENTION_FUNCTIONS["ata_attention"] is before


def test_a_padded_batch_needs_the_mask_in_the_collector():
    model = make_model("llama", register())
    with pytest.raises(ValueError, match="attention_mask to ColumnSumCollector"):
        model(**PADDED, column_sums=ColumnSumCollector(LAYERS))


def test_dropout_and_reentrant_checkpointing_are_refused():
    model = make_model("llama", register()).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(UnsupportedAttention, match="use_reentrant"):
        collect(model, PADDED)
    model.gradient_checkpointing_disable()
    for layer in model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(NotImplementedError, match=r"dropout 0\.1"):
        collect(model, PADDED)


def test_another_implementation_leaves_the_collector_empty():
    collector = ColumnSumCollector(LAYERS, TOKENS)
    make_model("llama", "sdpa")(**PADDED, column_sums=collector)
    assert collector.by_layer == {}
