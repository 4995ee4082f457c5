"""Each pooling method as its formula, on numbers small enough to do by hand, padded and packed."""

import pytest
import torch
from ata_attention.transformers import ColumnSumCollector, LayerColumnSums
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mgh_ds.common.errors import MghError
from mgh_ds.model.batches import PackedBatch, PaddedBatch
from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.pooling import Pooling, visible_queries

# Two texts of four and three tokens; the first token of each is left out of the pooling.
ROWS = [([0] * 4, [False, True, True, True]), ([0] * 3, [False, True, True])]
# Column sums of two heads, by text.
SUMS = [torch.tensor([[2.0, 1, 1, 0], [1, 1, 0, 2]]), torch.tensor([[1.0, 2, 0], [3, 0, 0]])]
BATCHES = {
    "right": PaddedBatch.of(ROWS, 0, "right"),
    "left": PaddedBatch.of(ROWS, 0, "left"),
    "packed": PackedBatch.of(ROWS),
}


@pytest.fixture(params=BATCHES)
def batch(request):
    return BATCHES[request.param]


def laid_out(batch, by_text):
    """Values `[H, n]` of each text as the attention leaves them: `[B, H, N]`, 0 at padding, or `[T, H]`."""
    if isinstance(batch, PackedBatch):
        return torch.cat([values.T for values in by_text])
    place = batch.attention_mask.int().argmax(1).tolist()
    room = batch.input_ids.shape[1]
    padded = [
        nn.functional.pad(values, (first, room - first - values.shape[1]))
        for first, values in zip(place, by_text, strict=True)
    ]
    return torch.stack(padded)


def collected(batch, *layers, causal=False):
    """Of layers with these column sums."""
    layers = layers or (SUMS,)
    by_layer = {
        i: LayerColumnSums(laid_out(batch, sums), causal=causal, window=None, backend="none")
        for i, sums in enumerate(layers)
    }
    return ColumnSumCollector(list(by_layer), batch.token_mask, by_layer)


def weights(batch, method="ata", given=None, **options):
    """Of each text's tokens."""
    return batch.unpacked(Pooling(PoolingConfig(method=method, **options)).weights(batch, given))


def same(found, expected):
    for values, numbers in zip(found, expected, strict=True):
        numbers = torch.as_tensor(numbers, dtype=torch.float32)
        torch.testing.assert_close(values, numbers / numbers.sum())


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("mean", [[0, 1, 1, 1], [0, 1, 1]]),
        ("weighted_mean", [[0, 2, 3, 4], [0, 2, 3]]),
        ("cls", [[1, 0, 0, 0], [1, 0, 0]]),
        ("last", [[0, 0, 0, 1], [0, 0, 1]]),
    ],
)
def test_methods_without_attention(batch, method, expected):
    same(weights(batch, method), expected)


def test_ata_adds_the_heads_column_sums(batch):
    same(weights(batch, given=collected(batch)), [[0, 2, 1, 2], [0, 2, 0]])


def test_layers_are_added_before_the_weights_are_normalised(batch):
    second = [torch.tensor([[0.0, 0, 4, 0], [0, 0, 4, 0]]), torch.tensor([[0.0, 0, 2], [0, 0, 0]])]
    found = weights(batch, given=collected(batch, SUMS, second), layers=[-2, -1])
    same(found, [[0, 2, 9, 2], [0, 2, 2]])


def test_log1p_is_taken_of_each_head_before_they_are_added(batch):
    log2, log3 = torch.tensor(2.0).log(), torch.tensor(3.0).log()
    expected = torch.stack([torch.tensor(0.0), 2 * log2, log2, log3])
    same(weights(batch, given=collected(batch), column_transform="log1p"), [expected, [0, 1, 0]])


def test_visible_mean_divides_by_the_queries_that_see_the_token(batch):
    """Under causal attention these are 4, 3, 2, 1: the last token is no longer at a disadvantage."""
    found = weights(batch, given=collected(batch, causal=True), column_transform="visible_mean")
    same(found, [[0, 2 / 3, 1 / 2, 2 / 1], [0, 1, 0]])
    # Where all see all, it is a common factor.
    same(weights(batch, given=collected(batch), column_transform="visible_mean"), [[0, 2, 1, 2], [0, 2, 0]])


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, (2, 2)), (True, (2, 0))])
@pytest.mark.parametrize("packed", [False, True])
def test_visible_queries_are_counted(packed, causal, window):
    rows = [([0] * n, [True] * n) for n in (5, 7, 1, 3)]
    batch = PackedBatch.of(rows) if packed else PaddedBatch.of(rows, 0, "left")
    layer = LayerColumnSums(torch.zeros(0), causal, window, backend="none")
    for counts in batch.unpacked(visible_queries(batch, layer)):
        n = len(counts)
        left, right = window or (n, n)
        for key in range(n):
            seers = [i for i in range(n) if i - left <= key <= i + right and not (causal and key > i)]
            assert counts[key] == len(seers)


def test_a_text_without_poolable_tokens_is_pooled_evenly(batch):
    nothing = batch._replace(pooling_mask=torch.zeros_like(batch.pooling_mask))
    for method in ("mean", "ata", "weighted_mean"):
        same(weights(nothing, method, collected(batch)), [[1, 1, 1, 1], [1, 1, 1]])


def test_the_embedding_is_the_weighted_mean(batch):
    hidden = torch.arange(float(3 * batch.input_ids.numel())).view(*batch.input_ids.shape, 3)
    found = Pooling(PoolingConfig())(hidden, batch, collected(batch))
    by_text = zip(weights(batch, given=collected(batch)), batch.unpacked(hidden), strict=True)
    torch.testing.assert_close(found, torch.stack([w @ states for w, states in by_text]))
    half = Pooling(PoolingConfig())(hidden.bfloat16(), batch, collected(batch))
    assert half.dtype == torch.float32


@pytest.mark.parametrize("detach", [False, True])
def test_detached_weights_carry_no_gradient(batch, detach):
    sums = [values.clone().requires_grad_() for values in SUMS]
    found = Pooling(PoolingConfig(detach_weights=detach)).weights(batch, collected(batch, sums))
    assert found.requires_grad is not detach


def test_ata_without_column_sums_is_refused(batch):
    for nothing in (None, ColumnSumCollector([0], batch.token_mask)):
        with pytest.raises(MghError, match="attention left none"):
            weights(batch, given=nothing)
    with pytest.raises(MghError, match="attention left none"):
        weights(batch, given=collected(batch), layers=[-2, -1])  # one of the two


@pytest.mark.parametrize("method", ["ata", "mean", "last", "cls", "weighted_mean"])
def test_a_text_without_tokens_is_zero_and_disturbs_no_other(method):
    """No tokenizer makes one."""
    empty = ([], [])
    hidden = torch.randn(7, 5)
    plain = Pooling(PoolingConfig(method=method))(
        hidden, PackedBatch.of(ROWS), collected(PackedBatch.of(ROWS))
    )
    batch = PackedBatch.of([empty, ROWS[0], empty, empty, ROWS[1], empty])
    nothing = torch.zeros(2, 0)
    given = collected(batch, [nothing, SUMS[0], nothing, nothing, SUMS[1], nothing])
    states = hidden.clone().requires_grad_()
    found = Pooling(PoolingConfig(method=method))(states, batch, given)
    assert torch.equal(found[[1, 4]], plain)
    assert (found[[0, 2, 3, 5]] == 0).all()
    found.square().sum().backward()
    assert states.grad.isfinite().all()


def test_a_text_of_nan_spoils_no_other():
    """The trainer names the records whose embeddings are not finite; a product with a matrix of zeros and
    weights would blame them all."""
    hidden = torch.randn(7, 5)
    hidden[:4] = torch.nan
    found = Pooling(PoolingConfig())(hidden, PackedBatch.of(ROWS), collected(PackedBatch.of(ROWS)))
    assert found.isfinite().tolist() == [[False] * 5, [True] * 5]


@given(
    data=st.data(),
    method=st.sampled_from(["ata", "mean", "last", "cls", "weighted_mean"]),
    transform=st.sampled_from(["identity", "log1p", "sqrt", "softmax", "visible_mean"]),
    sink=st.sampled_from(["keep", "first", "clip"]),
)
def test_weights_are_a_distribution_over_tokens_and_the_layout_does_not_matter(data, method, transform, sink):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    rows = [([0] * n, data.draw(st.lists(st.booleans(), min_size=n, max_size=n))) for n in lengths]
    sums = [torch.rand(2, n) for n in lengths]
    causal = data.draw(st.booleans())
    pooling = Pooling(PoolingConfig(method=method, column_transform=transform, sink=sink))
    side = data.draw(st.sampled_from(["left", "right"]))
    found = []
    for batch in (PaddedBatch.of(rows, 0, side), PackedBatch.of(rows)):
        values = pooling.weights(batch, collected(batch, sums, causal=causal))
        assert (values >= 0).all()
        assert (values[~batch.token_mask] == 0).all()
        torch.testing.assert_close(batch.total(values), torch.ones(len(lengths)))
        found.append(torch.cat(batch.unpacked(values)))
    torch.testing.assert_close(*found)
