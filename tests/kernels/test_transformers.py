"""`ata_attention.transformers` alone, on tiny models with random weights, against transformers' own."""

from copy import deepcopy
from pathlib import Path

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
from transformers.utils import import_utils

from tests.flash_builds import FA2, FA3, KERNELS, RAN

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


FLASH = {"flash_attn_interface": FA3, "flash_attn": FA2}


def states_and_gradients(model, inputs):
    """Last states at tokens, and the gradients of all weights."""
    states = model(**inputs).last_hidden_state
    states = states[0] if inputs is PACKED else states[TOKENS]
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return states.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# Of each layer: whether it is causal, its window in flash attention's words, and its cap.
FULL, SLIDING = (-1, -1), (2, 0)
ASKED = {
    "bert": [(False, FULL, 0.0)] * 3,
    "gemma2": [(True, SLIDING, 1.0), (True, FULL, 1.0), (True, SLIDING, 1.0)],
    "llama": [(True, FULL, 0.0)] * 3,
    "mistral": [(True, SLIDING, 0.0)] * 3,
    "modernbert": [(False, FULL, 0.0), (False, (2, 2), 0.0), (False, (2, 2), 0.0)],
}


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("family", CONFIGS)
def test_flash_attention_gives_the_states_and_gradients_of_sdpa(family, layout, flash_builds):
    flash_builds(FLASH)
    expected, right = states_and_gradients(make_model(family, MEASURE.get(family, "sdpa")), PADDED)
    assert RAN == [], "transformers' own asks nobody"
    model, inputs = make_model(family, register()), PACKED if layout == "packed" else PADDED
    model(**inputs)  # tries the builds
    RAN.clear()
    found, gradients = states_and_gradients(model, inputs)
    assert {name for name, _ in RAN} == {"flash_attn_interface"}
    assert [(asked["causal"], asked["window"], asked["softcap"]) for _, asked in RAN] == ASKED[family]
    torch.testing.assert_close(found, expected, **TOLERANCE)
    assert gradients.keys() == right.keys()
    for name, gradient in gradients.items():
        size = right[name].abs().max().item()
        torch.testing.assert_close(gradient, right[name], atol=1e-4 * size + 1e-6, rtol=0)


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_layers_with_column_sums_stay_ours_and_the_others_run_flash_attention(family, flash_builds):
    model = make_model(family, register())
    expected, sums = collect(model, PADDED)
    flash_builds(FLASH)
    for inputs in (PADDED, PACKED):
        collect(model, inputs)  # tries the builds
        RAN.clear()
        found, ours = collect(model, inputs)
        assert [name for name, _ in RAN] == ["flash_attn_interface"], "of three layers two collect"
        packed = inputs is PACKED
        torch.testing.assert_close(found[0] if packed else found[TOKENS], expected[TOKENS], **TOLERANCE)
        for one, right in zip(ours, sums, strict=True):
            right = right.transpose(1, 2)[TOKENS]
            torch.testing.assert_close(one if packed else one.transpose(1, 2)[TOKENS], right, **TOLERANCE)


@pytest.mark.parametrize("family", ["mistral", "modernbert"])
@torch.no_grad()
def test_padding_may_stand_anywhere_or_nowhere(family, flash_builds):
    left = {"input_ids": IDS.flip(1), "attention_mask": TOKENS.flip(1).long()}
    full = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    plain = {"input_ids": IDS}
    for inputs in (left, full, plain):
        expected = make_model(family, "sdpa")(**inputs).last_hidden_state
        flash_builds(FLASH)
        found = make_model(family, register())(**inputs).last_hidden_state
        assert RAN[-1][0] == "flash_attn_interface"
        shown = inputs.get("attention_mask", full["attention_mask"]).bool()
        torch.testing.assert_close(found[shown], expected[shown], **TOLERANCE)


@torch.no_grad()
def test_masks_that_flash_attention_does_not_know_go_to_sdpa(flash_builds):
    """One that somebody made, and that of texts one after another which only their positions tell apart."""
    flash_builds(FLASH)
    made = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril() & TOKENS[:, None, None, :]
    made[0, 0, 5, 1:4] = False
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    for inputs in (
        {"input_ids": IDS, "attention_mask": made},
        {"input_ids": IDS[:1], "position_ids": positions, "use_cache": False},
    ):
        found = make_model("llama", register())(**inputs).last_hidden_state
        assert RAN == []
        expected = make_model("llama", "sdpa")(**inputs).last_hidden_state
        torch.testing.assert_close(found, expected, **TOLERANCE)


@torch.no_grad()
def test_cached_keys_go_to_sdpa(flash_builds):
    """The first call has none yet."""
    flash_builds(FLASH)
    found = []
    for implementation in ("sdpa", register()):
        model = make_model("llama", implementation)
        first = model(input_ids=IDS[:, :5], use_cache=True)
        RAN.clear()
        found.append(model(input_ids=IDS[:, 5:], past_key_values=first.past_key_values).last_hidden_state)
        assert RAN == []
    torch.testing.assert_close(*found, **TOLERANCE)


@torch.no_grad()
def test_kernels_that_were_not_fetched_leave_a_padded_batch_to_sdpa(flash_builds):
    flash_builds({"kernels": KERNELS})
    expected = make_model("llama", "sdpa")(**PADDED).last_hidden_state
    found = make_model("llama", register())(**PADDED).last_hidden_state
    assert RAN == []
    assert torch.equal(found, expected)


def test_flash_attention_refuses_dropout_too(flash_builds):
    flash_builds(FLASH)
    model = make_model("llama", register()).train()
    for layer in model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(UnsupportedAttention, match="flash attention know none"):
        model(**PADDED)


def test_our_extra_asks_for_versions_of_kernels_that_transformers_takes():
    assert import_utils.KERNELS_MIN_VERSION <= "0.17.2"
    for project in ("pyproject.toml", "kernels/pyproject.toml"):
        assert f"kernels>=0.17.2,<{import_utils.KERNELS_MAX_VERSION[:4]}" in Path(project).read_text()
