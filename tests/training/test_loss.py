"""The loss equals the formula written out with loops, whatever is masked and however the rows are split over
ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgh_ds.training.config import LossConfig
from mgh_ds.training.loss import Pool, info_nce, level_statistics
from tests.training.brute_force import mean_loss


def make_pool(seed: int, slots: int = 6, negatives: int = 2, texts: int = 40, empty: bool = True) -> Pool:
    """A random pool in float64; few distinct texts make identical ones likely."""
    random = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(slots, 2 + negatives, 8, generator=random, dtype=torch.float64)
    valid = torch.ones(slots, dtype=torch.bool)
    document_valid = torch.rand(slots, 1 + negatives, generator=random) > 0.2
    if empty:
        valid[-1] = False
    document_valid[:, 0] = valid
    document_valid &= valid[:, None]
    return Pool(
        embeddings=torch.nn.functional.normalize(embeddings, dim=-1).requires_grad_(),
        valid=valid,
        document_valid=document_valid,
        query_hash=torch.randint(0, texts, (slots,), generator=random),
        document_hash=torch.randint(0, texts, (slots, 1 + negatives), generator=random),
        symmetric=torch.rand(slots, generator=random) > 0.5,
    )


configs = st.builds(
    LossConfig,
    temperature=st.sampled_from([0.02, 0.05, 1.0]),
    own_negatives_only=st.booleans(),
    symmetric=st.booleans(),
    false_negative_margin=st.sampled_from([None, 0.0, 0.2]),
)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(0, 3), st.sampled_from([4, 1000]), configs)
@settings(max_examples=150, deadline=None)
def test_loss_and_gradient_equal_the_formula(
    seed: int, slots: int, negatives: int, texts: int, config: LossConfig
) -> None:
    pool = make_pool(seed, slots, negatives, texts, empty=slots > 1)
    halves = [slice(0, slots // 2), slice(slots // 2, slots)]
    ours = sum(info_nce(pool, rows, config).loss_sum for rows in halves) / pool.valid.sum()
    theirs = mean_loss(pool, config)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, pool.embeddings, allow_unused=True)[0] for loss in (ours, theirs)]
    if gradients[1] is not None:
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_a_text_is_never_a_negative_of_itself() -> None:
    """Two slots share one text as their positive: masked, either may lie anywhere; unmasked, the loss could
    not reach 0."""
    one = torch.eye(4, dtype=torch.float64)
    embeddings = torch.stack([torch.stack([one[0], one[0]]), torch.stack([one[0], one[0]])])
    flags = torch.ones(2, dtype=torch.bool)
    hashes = {"query_hash": torch.tensor([1, 2]), "symmetric": ~flags}
    same = Pool(embeddings, flags, flags[:, None], document_hash=torch.tensor([[9], [9]]), **hashes)
    other = Pool(embeddings, flags, flags[:, None], document_hash=torch.tensor([[9], [8]]), **hashes)
    config = LossConfig(temperature=0.05)
    assert info_nce(same, slice(0, 2), config).loss_sum.item() == 0
    assert info_nce(other, slice(0, 2), config).loss_sum.item() == pytest.approx(
        2 * torch.log(torch.tensor(2.0)).item()
    )
    assert info_nce(same, slice(0, 2), config).masked.item() == 2
    assert info_nce(other, slice(0, 2), config).masked.item() == 0


def test_an_empty_slot_weighs_nothing() -> None:
    full = make_pool(3, slots=5, empty=False)
    padded = Pool(
        torch.cat([full.embeddings, full.embeddings[:1]]),
        torch.cat([full.valid, torch.tensor([False])]),
        torch.cat([full.document_valid, torch.zeros(1, 3, dtype=torch.bool)]),
        torch.cat([full.query_hash, torch.tensor([77])]),
        torch.cat([full.document_hash, torch.full((1, 3), 78)]),
        torch.cat([full.symmetric, torch.tensor([False])]),
    )
    config = LossConfig(symmetric=True)
    sums = [info_nce(pool, slice(0, len(pool.valid)), config).loss_sum for pool in (full, padded)]
    torch.testing.assert_close(sums[0], sums[1], rtol=0, atol=0)


def test_level_statistics_count_what_is_there() -> None:
    embeddings = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0]], [[1.0, 0.0]] * 4])
    levels = torch.tensor([[1, 4], [4, 0]])
    document_valid = torch.tensor([[True, True, True], [True, True, False]])
    table = level_statistics(embeddings, levels, document_valid)
    assert table[:, 0].tolist() == [0, 1, 0, 0, 2]
    assert table[:, 1].tolist() == [0, 1, 0, 0, 0]
    assert table[1, 2].item() == pytest.approx(0.2)
    assert table[4, 2].item() == pytest.approx(-0.2)
