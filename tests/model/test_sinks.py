"""Treatments of attention sinks: their definitions, written out in float64, and where they reach."""

import numpy as np
import pytest
import torch
from ata_attention import ata_attention, transformers
from sentence_transformers import SentenceTransformer

from mgh_ds.common.errors import MghError
from mgh_ds.model.batches import PackedBatch, PaddedBatch
from mgh_ds.model.config import ModelConfig, PoolingConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.export import export
from mgh_ds.model.pooling import Pooling
from mgh_ds.training.token_weights import text_weights
from tests.model.conftest import TEXTS
from tests.model.test_export import OPTIONS
from tests.model.test_packed import both, gradients, moved_adapters
from tests.model.test_pooling import BATCHES, collected, same, weights

# Texts whose first pooled token is not their first, is the only one, or is not there.
POOLED = [
    [False, True, True, True, True],
    [True],
    [False, False, True],
    [False, False],
    [True, True, False, True],
]
ROWS = [([0] * len(pooled), pooled) for pooled in POOLED]
LAYOUTS = {
    "right": PaddedBatch.of(ROWS, 0, "right"),
    "left": PaddedBatch.of(ROWS, 0, "left"),
    "packed": PackedBatch.of(ROWS),
}
TRANSFORMS = ["identity", "log1p", "sqrt", "softmax", "visible_mean"]


def column_sums():
    """Of two heads, by text: those of a text of n tokens add up to n, and its first token gets most."""
    random = torch.Generator().manual_seed(4)
    found = []
    for pooled in POOLED:
        scores = torch.randn(2, len(pooled), generator=random, dtype=torch.float64)
        scores[:, 0] += 2
        if len(pooled) > 1:
            scores[:, 1] += 1.5
        found.append((len(pooled) * scores.softmax(1)).requires_grad_())
    return found


def written_out(sums, pooled, transform, sink, multiple):
    """A text's weights, a token at a time."""
    n = sums.shape[1]
    received = []
    for j in range(n):
        total = torch.zeros((), dtype=torch.float64)
        for head in sums:
            if transform == "identity":
                total = total + head[j]
            elif transform == "log1p":
                total = total + torch.log(1 + head[j])
            elif transform == "sqrt":
                total = total + head[j] ** 0.5
            elif transform == "softmax":
                total = total + torch.exp(head[j] / n) / sum(torch.exp(head[k] / n) for k in range(n))
            else:
                total = total + head[j] / n  # every query sees every token
        received.append(total)
    chosen = [j for j in range(n) if pooled[j]]
    if not chosen:
        return torch.full((n,), 1 / n, dtype=torch.float64)
    weight = {j: received[j] for j in chosen}
    if sink == "first" and len(chosen) > 1:
        weight[chosen[0]] = sum(received[j] for j in chosen[1:]) / (len(chosen) - 1)
    if sink == "clip":
        most = multiple * sum(received[j] for j in chosen) / len(chosen)
        weight = {j: most if w > most else w for j, w in weight.items()}
    total = sum(weight.values())
    nothing = torch.zeros((), dtype=torch.float64)
    return torch.stack([weight[j] / total if j in weight else nothing for j in range(n)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sink", ["keep", "first", "clip"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_weights_and_their_gradients_are_a_float64_loops(transform, sink, layout):
    batch, target = LAYOUTS[layout], torch.linspace(-1, 2, 15, dtype=torch.float64)
    pooling = Pooling(PoolingConfig(column_transform=transform, sink=sink, clip_multiple=1.2))
    mine, loops = column_sums(), column_sums()
    found = torch.cat(batch.unpacked(pooling.weights(batch, collected(batch, mine))))
    expected = torch.cat(
        [written_out(sums, pooled, transform, sink, 1.2) for sums, pooled in zip(loops, POOLED, strict=True)]
    )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    ours, theirs = (
        torch.autograd.grad(values @ target, sums, allow_unused=True)
        for values, sums in ((found, mine), (expected, loops))
    )
    for gradient, loop in zip(ours, theirs, strict=True):
        loop = torch.zeros_like(gradient) if loop is None else loop
        torch.testing.assert_close(gradient, loop, atol=1e-12, rtol=0)
    # The treatment changed something, of what it should change alone.
    kept = torch.cat(weights(batch, given=collected(batch, mine), column_transform=transform))
    moved = (found - kept).abs() > 1e-3
    if sink == "keep" or (sink == "clip" and transform == "softmax"):  # whose weights are all near the mean
        assert torch.equal(found, kept)
    else:
        assert moved[1:5].any()
    assert not moved[5:11].any()  # texts of one pooled token, and of none


def test_the_numbers_by_hand():
    """Pooled weights (8, 1, 3) and (2, 0): a mean of 4, and of 1."""
    sums = [torch.tensor([[9.0, 8, 1, 3]]), torch.tensor([[1.0, 2, 0]])]
    for batch in BATCHES.values():
        given = collected(batch, sums)
        same(weights(batch, given=given), [[0, 8, 1, 3], [0, 2, 0]])
        same(weights(batch, given=given, sink="clip", clip_multiple=1.5), [[0, 6, 1, 3], [0, 1.5, 0]])
        same(weights(batch, given=given, sink="clip", clip_multiple=1.0), [[0, 4, 1, 3], [0, 1, 0]])
        [first, _] = weights(batch, given=given, sink="first")
        same([first], [[0, 2, 1, 3]])


def test_a_sink_that_dominates_leaves_the_others_their_digits():
    """In fp32 the others of a sink of 1e6 would keep two digits if it were taken off the sum."""
    sums = [torch.tensor([[0.0, 1e6, 0.001, 0.003]]), torch.tensor([[0.0, 1e6, 0.001]])]
    batch = BATCHES["packed"]
    found = weights(batch, given=collected(batch, sums), sink="first")
    same(found, [[0, 0.002, 0.001, 0.003], [0, 0.001, 0.001]])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_token_without_attention_has_a_finite_gradient(transform):
    sums = [torch.tensor([[0.0, 1, 0, 3]], requires_grad=True), torch.zeros(1, 3, requires_grad=True)]
    for sink in ("keep", "first", "clip"):
        for batch in BATCHES.values():
            found = weights(batch, given=collected(batch, sums), sink=sink, column_transform=transform)
            for gradient in torch.autograd.grad(torch.cat(found).square().sum(), sums):
                assert gradient.isfinite().all()


def test_empty_texts_and_other_methods_are_left_alone():
    empty = ([], [])
    batch = PackedBatch.of([empty, *ROWS, empty])
    assert batch.first_pooled.tolist() == LAYOUTS["packed"].first_pooled.tolist()
    for layout in LAYOUTS.values():
        firsts = [text.nonzero().flatten().tolist() for text in layout.unpacked(layout.first_pooled)]
        assert firsts == [[1], [0], [2], [], [0]]
        for sink in ("first", "clip"):
            torch.testing.assert_close(weights(layout, "mean", sink=sink), weights(layout, "mean"))


@pytest.mark.parametrize("sink", ["first", "clip"])
@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_every_layout_backend_and_checkpointing_give_the_same(family, sink, folders, monkeypatch):
    """Tolerances as in test_packed: embeddings to 1e-5, gradients to 1e-4 of a tensor's largest entry."""
    pooling = PoolingConfig(sink=sink, clip_multiple=1.2)
    model, tokenizer = moved_adapters(folders[family], pooling=pooling)
    checkpointed, _ = moved_adapters(folders[family], pooling=pooling, activation_checkpointing=True)
    packed, padded = both(tokenizer)
    expected, vectors = gradients(model, packed), model(packed).detach()

    def same_as_packed(other, batch):
        torch.testing.assert_close(other(batch), vectors, atol=1e-5, rtol=0)
        for name, gradient in gradients(other, batch).items():
            assert (gradient - expected[name]).abs().max() < 1e-4 * expected[name].abs().max(), name

    same_as_packed(model, padded)
    same_as_packed(checkpointed, packed)
    ran = []

    def reference(*inputs, **options):
        result = ata_attention(*inputs, backend="reference", **options)
        ran.append(result.backend)
        return result

    monkeypatch.setattr(transformers, "ata_attention", reference)
    same_as_packed(model, packed)
    assert set(ran) == {"reference"}
    model.pooling = Pooling(pooling.replace(sink="keep"))
    assert (model(packed) - vectors).abs().max() > 1e-3


@pytest.mark.parametrize("sink", ["first", "clip"])
def test_an_export_applies_it_here_and_in_sentence_transformers(sink, folders, tmp_path):
    config = ModelConfig(
        name_or_path=str(folders["qwen3"]), pooling=PoolingConfig(sink=sink, clip_multiple=1.2), lora=None
    )
    encoder = Encoder(*build_model(config))
    export(encoder.model, encoder.tokenizer, tmp_path / "out", card="")
    again = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    assert again.model.pooling.config == config.pooling
    vectors = encoder.encode(TEXTS)
    assert np.array_equal(again.encode(TEXTS), vectors)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    assert (theirs.encode(TEXTS) * vectors).sum(1).min() > 0.99999
    kept = Encoder.from_pretrained(tmp_path / "out", sink="keep", device="cpu")
    assert (kept.encode(TEXTS) * vectors).sum(1).min() < 0.9999


def test_the_reports_token_weights_are_the_treated_ones(load):
    model, tokenizer = load("mistral", sink="first")
    [entry] = text_weights(model, tokenizer, TEXTS[2:3], "before")
    first, *others = entry["weights"]
    assert first == pytest.approx(sum(others) / len(others))
    assert max(others) > 1.1 * first  # they are not uniform


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sink": "drop"}, "sink must be one of keep, first, clip"),
        ({"sink": "clip", "clip_multiple": 0.5}, "clip_multiple must be 1 or more, found 0.5"),
        ({"sink": "clip", "clip_multiple": float("nan")}, "clip_multiple must be"),
        ({"sink": "first", "clip_multiple": 2.0}, "clip_multiple is for sink clip, but sink is first"),
    ],
)
def test_treatments_that_do_not_exist_are_refused(options, message):
    with pytest.raises(MghError, match=message):
        Encoder.from_pretrained("tiny-random/mistral", **options)


def test_a_treatment_for_a_model_that_was_saved_with_another_pooling_is_refused(folders):
    with pytest.raises(MghError, match="sink is for ATA pooling"):
        Encoder.from_pretrained(folders["minilm"], sink="first")
