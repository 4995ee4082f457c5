"""Every loss and its gradient equal the formula written out with loops. InfoNCE alone: test_info_nce.py; how
they are spread over ranks: test_gather.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.util import pairwise_angle_sim

from mgh_ds.common.errors import MghError
from mgh_ds.losses import make_loss
from mgh_ds.losses.base import Labels
from mgh_ds.losses.cosent import angle
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.settings import (
    CosentSettings,
    LevelMarginSettings,
    ListwiseSettings,
    MatryoshkaSettings,
    TermSettings,
    WeightedSumSettings,
)
from tests.losses.brute_force import mean_loss
from tests.losses.cases import CASES
from tests.losses.test_info_nce import make_batch

EXAMPLES = 12


@pytest.mark.parametrize("name", CASES)
@given(
    st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 4), st.sampled_from([6, 1000]), st.integers(1, 2)
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_loss_and_gradient_equal_the_formula(
    name: str, seed: int, records: int, negatives: int, texts: int, groups: int
) -> None:
    embeddings, labels = make_batch(seed, records, negatives, texts, groups)
    ours = make_loss(CASES[name], Exchange("whole", groups))(embeddings, labels).total / labels.valid.sum()
    theirs = mean_loss(embeddings, labels, CASES[name])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    (expected,) = torch.autograd.grad(theirs, embeddings)
    (gradient,) = torch.autograd.grad(ours, embeddings)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_place_weighs_nothing(name: str) -> None:
    embeddings, labels = make_batch(3, records=5, empty=False)
    padding = make_batch(4, records=2)[1][[1]]  # the empty record of a batch of two
    loss = make_loss(CASES[name], Exchange())
    full = loss(embeddings, labels)
    anything = torch.full_like(embeddings[:1], 7.0)
    padded = loss(torch.cat([embeddings, anything]), Labels.cat([labels, padding]))
    torch.testing.assert_close(full.total, padded.total, rtol=1e-12, atol=1e-12)
    assert {k: [float(v) for v in ratio] for k, ratio in full.statistics.items()} == {
        k: [pytest.approx(float(v)) for v in ratio] for k, ratio in padded.statistics.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_an_embedding_that_is_not_finite_ends_in_a_loss_that_is_not(name: str) -> None:
    """An error in its place would end the run, where a step that is not finite is skipped."""
    embeddings, labels = make_batch(3, records=5, empty=False)
    poisoned = embeddings.detach().clone()
    poisoned[2, :, 0] = torch.nan
    poisoned.requires_grad_()
    total = make_loss(CASES[name], Exchange())(poisoned, labels).total
    assert not total.isfinite()
    (gradient,) = torch.autograd.grad(total, poisoned)
    assert not gradient.isfinite().all()


def graded(cosines: list[float], levels: list[int]) -> tuple[torch.Tensor, Labels]:
    """One record whose positive and negatives have these cosines."""
    vectors = [[1.0, 0.0], *([c, (1 - c * c) ** 0.5] for c in cosines)]
    flags = torch.ones(1, len(cosines), dtype=torch.bool)
    labels = Labels(
        valid=flags[:, 0],
        document_valid=flags,
        levels=torch.tensor([levels]),
        query_hash=torch.tensor([1]),
        document_hash=torch.arange(2, 2 + len(cosines))[None],
        symmetric=~flags[:, 0],
        group=torch.tensor([0]),
        scores=torch.full((1, len(cosines)), torch.nan),
    )
    return torch.tensor([vectors], dtype=torch.float64), labels


@pytest.mark.parametrize("base", [2.0, 1.02])
@pytest.mark.parametrize("kind", ["listnet", "lambda", "wasserstein"])
def test_a_list_in_order_costs_less_than_one_out_of_order(kind: str, base: float) -> None:
    loss = make_loss(ListwiseSettings(kind=kind, gain_base=base), Exchange())
    right, labels = graded([0.9, 0.7, 0.6, 0.3, 0.1], [4, 3, 2, 1])
    wrong, _ = graded([0.9, 0.1, 0.3, 0.6, 0.7], [4, 3, 2, 1])
    assert loss(right, labels).total < loss(wrong, labels).total
    assert float(loss(right, labels).statistics["ndcg"].numerator) == pytest.approx(1)
    assert float(loss(wrong, labels).statistics["ndcg"].numerator) < 0.95


def test_margins_that_are_kept_cost_nothing() -> None:
    loss = make_loss(LevelMarginSettings(), Exchange())
    kept = loss(*graded([0.9, 0.75, 0.65, 0.55, 0.4], [4, 3, 2, 1]))
    assert kept.total == 0
    assert not any(ratio.numerator for ratio in kept.statistics.values())
    broken = loss(*graded([0.9, 0.85, 0.86, 0.55, 0.4], [4, 3, 2, 1]))
    # The margins of levels 4 and 3, and the order of the two.
    assert float(broken.total) == pytest.approx((0.05 + 0.16) / 4 + 0.06 / 3)
    shares = {name: [int(part) for part in ratio] for name, ratio in broken.statistics.items()}
    assert shares == {"violated_share": [2, 4], "disordered_share": [1, 3]}


def test_the_angle_is_that_of_sentence_transformers() -> None:
    x, y = torch.nn.functional.normalize(torch.randn(2, 7, 6, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(angle(x, y), pairwise_angle_sim(x, y))


def test_an_odd_width_has_no_angle() -> None:
    MatryoshkaSettings(dims=[8, 5], loss=CosentSettings())
    with pytest.raises(MghError, match=r"dims must be even for similarity angle.* found 5"):
        MatryoshkaSettings(dims=[8, 5], loss=CosentSettings(similarity="angle"))


def test_terms_of_one_name_are_told_apart() -> None:
    terms = [TermSettings(loss=ListwiseSettings()), TermSettings(loss=ListwiseSettings(kind="lambda"))]
    loss = make_loss(WeightedSumSettings(terms=terms), Exchange())
    assert set(loss(*make_batch(1)).statistics) == {
        "listwise-1",
        "listwise-1/ndcg",
        "listwise-2",
        "listwise-2/ndcg",
    }


def test_no_embedding_is_cut_to_more_than_it_has() -> None:
    with pytest.raises(MghError, match="dims: embeddings of 8 dimensions have no first 9"):
        make_loss(MatryoshkaSettings(dims=[9, 4]), Exchange())(*make_batch(1))
