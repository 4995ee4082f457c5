"""What a guide masks, and what not. That InfoNCE with a guide and its gradient are those of the formula:
test_info_nce.py; on ranks: test_gather.py."""

import pytest
import torch

from mgh_ds.losses import InfoNCESettings, make_loss
from mgh_ds.losses.base import Labels
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.settings import GuideSettings
from tests.losses.brute_force import mean_loss
from tests.losses.cases import CASES
from tests.losses.test_info_nce import guided, make_batch

# By the guide, in degrees: query, positive and own negative of two records. Cosines to the first query, whose
# positive has 0.5: 0.87 of its own negative, −0.34 and −0.17 of the other record's texts. To the second,
# whose positive has 0.94: 0.98 of its own negative, 0.87 and 0.5 of the other's.
DIRECTIONS = torch.tensor([[0.0, 60.0, 30.0], [90.0, 110.0, 100.0]]).deg2rad()


def two_records() -> tuple[torch.Tensor, Labels]:
    flags = torch.ones(2, dtype=torch.bool)
    labels = Labels(
        valid=flags,
        document_valid=flags[:, None].expand(2, 2),
        levels=torch.tensor([[4], [0]]),
        query_hash=torch.tensor([1, 2]),
        document_hash=torch.tensor([[3, 4], [5, 6]]),
        symmetric=flags,
        group=torch.zeros(2, dtype=torch.int64),
        scores=torch.full((2, 2), torch.nan),
        guide=torch.stack([DIRECTIONS.cos(), DIRECTIONS.sin()], dim=-1),
    )
    return torch.nn.functional.normalize(torch.arange(24.0).view(2, 3, 4).sin(), dim=-1), labels


@pytest.mark.parametrize(
    ("margin", "own_negatives", "masked"),
    [(0.0, False, 0), (0.1, False, 1), (0.5, False, 2), (0.0, True, 2), (-0.2, True, 1), (2.0, True, 6)],
)
def test_what_the_guide_finds_nearer_than_the_positive_is_masked(
    margin: float, own_negatives: bool, masked: int
) -> None:
    guide = GuideSettings(name_or_path="any", margin=margin, own_negatives=own_negatives)
    batch = two_records()
    total, statistics = make_loss(InfoNCESettings(temperature=1), Exchange(), guide)(*batch)
    shares = {name: [int(part) for part in ratio] for name, ratio in statistics.items()}
    assert shares == {"masked_share": [masked, 6], "guided_share": [masked, 6]}
    assert (total == 0) == (masked == 6)
    whole = make_loss(InfoNCESettings(temperature=1), Exchange())(*batch)
    assert list(whole.statistics) == ["masked_share"]
    assert (total < whole.total) == (masked > 0)
    assert (total == whole.total) == (masked == 0)


def test_it_masks_from_the_positive_back_to_the_query_as_well() -> None:
    """The second query is nearer to the first positive than its own, though not the other way round."""
    guide = GuideSettings(name_or_path="any")
    guided, whole = (
        make_loss(InfoNCESettings(temperature=1, symmetric=True), Exchange(), each)(*two_records()).total
        for each in (guide, None)
    )
    assert guided < whole


def test_what_is_masked_anyway_is_not_the_guides() -> None:
    embeddings, labels = two_records()
    labels.document_hash[:, 1] = torch.tensor([3, 5])  # their own positives' texts
    guide = GuideSettings(name_or_path="any", own_negatives=True)
    statistics = make_loss(InfoNCESettings(temperature=1), Exchange(), guide)(embeddings, labels).statistics
    assert [int(statistics[name].numerator) for name in ("masked_share", "guided_share")] == [2, 0]


@pytest.mark.parametrize("name", ["sum", "matryoshka", "matryoshka of a sum"])
def test_a_guide_masks_for_every_info_nce_in_a_loss(name: str) -> None:
    embeddings, labels = make_batch(7)
    labels, guide = guided(labels, 8), GuideSettings(name_or_path="any", margin=0.1)
    ours = make_loss(CASES[name], Exchange(), guide)(embeddings, labels)
    found, theirs = ours.total / labels.valid.sum(), mean_loss(embeddings, labels, CASES[name], guide)
    assert abs(theirs - mean_loss(embeddings, labels, CASES[name])) > 0.01, "it masks something"
    torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss, embeddings)[0] for loss in (found, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)
    shares = [ratio.numerator for key, ratio in ours.statistics.items() if key.endswith("guided_share")]
    assert len(shares) == {"sum": 1, "matryoshka": 3, "matryoshka of a sum": 2}[name]
    assert len(set(map(int, shares))) == 1, "the guide's own vectors are not cut"
