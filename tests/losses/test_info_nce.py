"""The loss equals the formula written out with loops, whatever is masked, by a guide too, and however large
the blocks of scores are.

How it is spread over ranks: test_gather.py.
"""

from dataclasses import replace
from typing import Literal
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgh_ds.losses import InfoNCESettings, info_nce
from mgh_ds.losses.base import Labels
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.info_nce import InfoNCE
from mgh_ds.losses.settings import GuideSettings
from tests.losses.brute_force import mean_loss


def make_batch(
    seed: int,
    records: int = 6,
    negatives: int = 2,
    texts: int = 40,
    negative_groups: int = 1,
    empty: bool = True,
) -> tuple[torch.Tensor, Labels]:
    """Random embeddings in float64 and their labels; few distinct texts make identical ones likely. One
    negative in five is ungraded, one score in ten is missing, and equal scores are likely."""
    random = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(records, 2 + negatives, 8, generator=random, dtype=torch.float64)
    valid = torch.ones(records, dtype=torch.bool)
    document_valid = torch.rand(records, 1 + negatives, generator=random) > 0.2
    if empty:
        valid[-1] = False
    document_valid[:, 0] = valid
    document_valid &= valid[:, None]
    labels = Labels(
        valid=valid,
        document_valid=document_valid,
        query_hash=torch.randint(0, texts, (records,), generator=random),
        document_hash=torch.randint(0, texts, (records, 1 + negatives), generator=random),
        symmetric=torch.rand(records, generator=random) > 0.5,
        group=torch.arange(records) % negative_groups,
        levels=torch.randint(0, 5, (records, negatives), generator=random),
        scores=torch.randint(0, 8, (records, 1 + negatives), generator=random) / 4,
    )
    labels.levels[~document_valid[:, 1:]] = 0
    missing = torch.rand(records, 1 + negatives, generator=random) < 0.1
    labels.scores[~document_valid | missing] = torch.nan
    return torch.nn.functional.normalize(embeddings, dim=-1).requires_grad_(), labels


def guided(labels: Labels, seed: int) -> Labels:
    """With vectors of a guide. It knows twelve texts apart, so that many are as near as the positive."""
    random = torch.Generator().manual_seed(seed)
    known = torch.nn.functional.normalize(torch.randn(12, 5, generator=random, dtype=torch.float64), dim=-1)
    n, documents = labels.document_valid.shape
    return replace(labels, guide=known[torch.randint(0, 12, (n, 1 + documents), generator=random)])


settings_ = st.builds(
    InfoNCESettings,
    temperature=st.sampled_from([0.02, 0.05, 1.0]),
    own_negatives_only=st.booleans(),
    symmetric=st.booleans(),
    false_negative_margin=st.sampled_from([None, 0.0, 0.2]),
    hardness=st.sampled_from([0.0, 9.0]),
    level_weights=st.sampled_from([None, [0.0, 0.5, 1.0, 3.0]]),
)
guides = st.none() | st.builds(
    GuideSettings,
    name_or_path=st.just("any"),
    margin=st.sampled_from([-0.2, 0.0, 0.3]),
    own_negatives=st.booleans(),
)
ways = st.sampled_from(["whole", "ring"])
shapes = st.tuples(st.integers(1, 7), st.integers(0, 3))  # records, negatives


@given(
    st.integers(0, 10**6),
    shapes,
    st.sampled_from([4, 1000]),
    st.integers(1, 3),
    st.sampled_from([1, 20, 1000]),
    settings_,
    ways,
    guides,
)
@settings(max_examples=150, deadline=None)
def test_loss_and_gradient_equal_the_formula(
    seed: int,
    shape: tuple[int, int],
    texts: int,
    negative_groups: int,
    block: int,
    chosen: InfoNCESettings,
    way: Literal["whole", "ring"],
    guide: GuideSettings | None,
) -> None:
    embeddings, labels = make_batch(seed, *shape, texts, negative_groups, empty=shape[0] > 1)
    labels = labels if guide is None else guided(labels, seed)
    with mock.patch.object(info_nce, "BLOCK", block):
        ours = InfoNCE(chosen, Exchange(way), guide)(embeddings, labels).total / labels.valid.sum()
        gradient = torch.autograd.grad(ours, embeddings)[0]
    theirs = mean_loss(embeddings, labels, chosen, guide)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad(theirs, embeddings)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_text_is_never_a_negative_of_itself() -> None:
    """Two records share one text as their positive: masked, either may lie anywhere; unmasked, the loss could
    not reach 0."""
    one = torch.eye(4, dtype=torch.float64)[0]
    flags = torch.ones(2, dtype=torch.bool)

    def total(hashes: list[int]) -> tuple[float, list[int]]:
        labels = Labels(
            valid=flags,
            document_valid=flags[:, None],
            levels=torch.zeros(2, 0, dtype=torch.int64),
            query_hash=torch.tensor([1, 2]),
            document_hash=torch.tensor(hashes)[:, None],
            symmetric=~flags,
            group=torch.zeros(2, dtype=torch.int64),
            scores=torch.full((2, 1), torch.nan),
        )
        output = InfoNCE(InfoNCESettings(temperature=0.05), Exchange())(one.expand(2, 2, 4), labels)
        masked, seen = output.statistics["masked_share"]
        return output.total.item(), [int(seen), int(masked)]

    assert total([9, 9]) == (0, [2, 2])
    assert total([9, 8]) == (pytest.approx(2 * torch.log(torch.tensor(2.0)).item()), [2, 0])


def test_an_empty_place_weighs_nothing() -> None:
    embeddings, labels = make_batch(3, records=5, empty=False)
    padding = Labels(
        valid=torch.tensor([False]),
        document_valid=torch.zeros(1, 3, dtype=torch.bool),
        levels=torch.zeros(1, 2, dtype=torch.int64),
        query_hash=torch.tensor([77]),
        document_hash=torch.full((1, 3), 78),
        symmetric=torch.tensor([False]),
        group=torch.tensor([0]),
        scores=torch.full((1, 3), torch.nan),
    )
    loss = InfoNCE(InfoNCESettings(symmetric=True), Exchange())
    full = loss(embeddings, labels)
    padded = loss(torch.cat([embeddings, embeddings[:1]]), Labels.cat([labels, padding]))
    torch.testing.assert_close(full.total, padded.total, rtol=0, atol=0)
    assert full.statistics == padded.statistics
