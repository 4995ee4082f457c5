"""Each pooling method as its formula, on numbers small enough to do by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgh_ds.errors import MghError
from mgh_ds.model.attention import AttentionRecord
from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.pooling import Pooling

# Two texts of four tokens, the second padded on the left; the first token of each is left out of the pooling.
TOKENS = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
POOLED = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
# Column sums of two heads.
SUMS = torch.tensor([[[2.0, 1, 1, 0], [1, 1, 0, 2]], [[0, 1, 2, 0], [0, 3, 0, 0]]])


def record(causal=False, window=None, sums=SUMS):
    return AttentionRecord(layer=0, tokens=TOKENS, column_sums=sums, causal=causal, window=window)


def weights(method="mean", given=None, **options):
    return Pooling(PoolingConfig(method=method, **options)).weights(TOKENS, POOLED, given)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("mean", [[0, 1, 1, 1], [0, 0, 1, 1]]),
        ("weighted_mean", [[0, 2, 3, 4], [0, 0, 2, 3]]),
        ("cls", [[1, 0, 0, 0], [0, 1, 0, 0]]),
        ("last", [[0, 0, 0, 1], [0, 0, 0, 1]]),
    ],
)
def test_methods_without_attention(method, expected):
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(weights(method), expected / expected.sum(1, keepdim=True))


def test_ata_adds_the_heads_column_sums():
    expected = torch.tensor([[0, 2 / 5, 1 / 5, 2 / 5], [0, 0, 1, 0]])
    torch.testing.assert_close(weights("ata", record()), expected)


def test_log1p_is_taken_of_each_head_before_they_are_added():
    log2, log3 = torch.tensor(2.0).log(), torch.tensor(3.0).log()
    expected = torch.stack([torch.tensor(0.0), 2 * log2, log2, log3])
    torch.testing.assert_close(
        weights("ata", record(), column_transform="log1p")[0], expected / expected.sum()
    )


def test_visible_mean_divides_by_the_queries_that_see_the_token():
    """Under causal attention these are 4, 3, 2, 1: the last token is no longer at a disadvantage."""
    expected = torch.tensor([0, 2 / 3, 1 / 2, 2 / 1])
    found = weights("ata", record(causal=True), column_transform="visible_mean")
    torch.testing.assert_close(found[0], expected / expected.sum())
    # Where all see all, it is a common factor.
    torch.testing.assert_close(
        weights("ata", record(), column_transform="visible_mean"), weights("ata", record())
    )


def test_a_row_without_poolable_tokens_is_pooled_evenly():
    nothing = torch.zeros_like(POOLED)
    for method in ("mean", "ata", "weighted_mean"):
        found = Pooling(PoolingConfig(method=method)).weights(TOKENS, nothing, record())
        torch.testing.assert_close(found, TOKENS / TOKENS.sum(1, keepdim=True))


def test_the_embedding_is_the_weighted_mean():
    hidden = torch.arange(24.0).view(2, 4, 3)
    found = Pooling(PoolingConfig())(hidden, TOKENS, POOLED, record())
    torch.testing.assert_close(found, torch.einsum("bn,bnd->bd", weights("ata", record()), hidden))
    half = Pooling(PoolingConfig())(hidden.bfloat16(), TOKENS, POOLED, record())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("detach", [False, True])
def test_detached_weights_carry_no_gradient(detach):
    sums = SUMS.clone().requires_grad_()
    found = weights("ata", record(sums=sums), detach_weights=detach)
    assert found.requires_grad is not detach


def test_ata_without_column_sums_is_refused():
    for nothing in (None, AttentionRecord(layer=0, tokens=TOKENS)):
        with pytest.raises(MghError, match="attention left none"):
            weights("ata", nothing)


@given(
    data=st.data(),
    method=st.sampled_from(["ata", "mean", "last", "cls", "weighted_mean"]),
    transform=st.sampled_from(["identity", "log1p", "visible_mean"]),
)
def test_weights_are_a_distribution_over_tokens(data, method, transform):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    tokens = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
    tokens = tokens.flip(1) if data.draw(st.booleans()) else tokens
    pooled = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=tokens.numel(), max_size=tokens.numel()))
    )
    sums = torch.rand(len(lengths), 2, 6) * tokens[:, None]
    left = AttentionRecord(layer=0, tokens=tokens, column_sums=sums, causal=data.draw(st.booleans()))
    pooling = Pooling(PoolingConfig(method=method, column_transform=transform))
    found = pooling.weights(tokens, pooled.view_as(tokens), left)
    assert (found >= 0).all()
    assert (found[~tokens] == 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(len(lengths)))
