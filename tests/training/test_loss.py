"""The loss equals the formula written out with loops, whatever is masked and however large the blocks of
scores are.

How it is spread over ranks: test_gather.py.
"""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgh_ds.training import loss
from mgh_ds.training.config import LossConfig
from mgh_ds.training.loss import level_statistics
from mgh_ds.training.pool import Slots, contrast
from tests.training.brute_force import mean_loss


def make_slots(
    seed: int, slots: int = 6, negatives: int = 2, texts: int = 40, pools: int = 1, empty: bool = True
) -> Slots:
    """Random slots in float64; few distinct texts make identical ones likely."""
    random = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(slots, 2 + negatives, 8, generator=random, dtype=torch.float64)
    valid = torch.ones(slots, dtype=torch.bool)
    document_valid = torch.rand(slots, 1 + negatives, generator=random) > 0.2
    if empty:
        valid[-1] = False
    document_valid[:, 0] = valid
    document_valid &= valid[:, None]
    return Slots(
        embeddings=torch.nn.functional.normalize(embeddings, dim=-1).requires_grad_(),
        valid=valid,
        document_valid=document_valid,
        query_hash=torch.randint(0, texts, (slots,), generator=random),
        document_hash=torch.randint(0, texts, (slots, 1 + negatives), generator=random),
        symmetric=torch.rand(slots, generator=random) > 0.5,
        pool=torch.arange(slots) % pools,
    )


configs = st.builds(
    LossConfig,
    temperature=st.sampled_from([0.02, 0.05, 1.0]),
    own_negatives_only=st.booleans(),
    symmetric=st.booleans(),
    false_negative_margin=st.sampled_from([None, 0.0, 0.2]),
    gather=st.sampled_from(["whole", "ring"]),
)
shapes = st.tuples(st.integers(1, 7), st.integers(0, 3))  # slots, negatives


@given(
    st.integers(0, 10**6),
    shapes,
    st.sampled_from([4, 1000]),
    st.integers(1, 3),
    st.sampled_from([1, 20, 1000]),
    configs,
)
@settings(max_examples=150, deadline=None)
def test_loss_and_gradient_equal_the_formula(
    seed: int, shape: tuple[int, int], texts: int, pools: int, block: int, config: LossConfig
) -> None:
    slots = make_slots(seed, *shape, texts, pools, empty=shape[0] > 1)
    with mock.patch.object(loss, "BLOCK", block):
        ours = contrast(slots, config, None)[0] / slots.valid.sum()
        gradient = torch.autograd.grad(ours, slots.embeddings)[0]
    theirs = mean_loss(slots, config)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad(theirs, slots.embeddings)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_text_is_never_a_negative_of_itself() -> None:
    """Two slots share one text as their positive: masked, either may lie anywhere; unmasked, the loss could
    not reach 0."""
    one = torch.eye(4, dtype=torch.float64)[0]
    flags = torch.ones(2, dtype=torch.bool)

    def total(hashes: list[int]) -> tuple[float, list[int]]:
        slots = Slots(
            embeddings=one.expand(2, 2, 4),
            valid=flags,
            document_valid=flags[:, None],
            query_hash=torch.tensor([1, 2]),
            document_hash=torch.tensor(hashes)[:, None],
            symmetric=~flags,
            pool=torch.zeros(2, dtype=torch.int64),
        )
        loss_sum, counts = contrast(slots, LossConfig(temperature=0.05), None)
        return loss_sum.item(), counts.tolist()

    assert total([9, 9]) == (0, [2, 2])
    assert total([9, 8]) == (pytest.approx(2 * torch.log(torch.tensor(2.0)).item()), [2, 0])


def test_an_empty_slot_weighs_nothing() -> None:
    full = make_slots(3, slots=5, empty=False)
    padded = Slots(
        torch.cat([full.embeddings, full.embeddings[:1]]),
        torch.cat([full.valid, torch.tensor([False])]),
        torch.cat([full.document_valid, torch.zeros(1, 3, dtype=torch.bool)]),
        torch.cat([full.query_hash, torch.tensor([77])]),
        torch.cat([full.document_hash, torch.full((1, 3), 78)]),
        torch.cat([full.symmetric, torch.tensor([False])]),
        torch.cat([full.pool, torch.tensor([0])]),
    )
    (sum_full, counts_full), (sum_padded, counts_padded) = (
        contrast(slots, LossConfig(symmetric=True), None) for slots in (full, padded)
    )
    torch.testing.assert_close(sum_full, sum_padded, rtol=0, atol=0)
    assert counts_full.tolist() == counts_padded.tolist()


def test_level_statistics_count_what_is_there() -> None:
    embeddings = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0]], [[1.0, 0.0]] * 4])
    levels = torch.tensor([[1, 4], [4, 0]])
    document_valid = torch.tensor([[True, True, True], [True, True, False]])
    table = level_statistics(embeddings, levels, document_valid)
    assert table[:, 0].tolist() == [0, 1, 0, 0, 2]
    assert table[:, 1].tolist() == [0, 1, 0, 0, 0]
    assert table[1, 2].item() == pytest.approx(0.2)
    assert table[4, 2].item() == pytest.approx(-0.2)
