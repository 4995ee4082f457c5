"""The step's figures beside the loss."""

import pytest
import torch

from mgh_ds.curriculum.loader import make_micro_batch
from mgh_ds.losses.base import Labels
from mgh_ds.records.schema import Record
from mgh_ds.training.batch import make_labels
from mgh_ds.training.objective import level_statistics
from tests.records.examples import record_values


def test_level_statistics_count_what_is_there() -> None:
    embeddings = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0]], [[1.0, 0.0]] * 4])
    labels = Labels(
        valid=torch.tensor([True, True]),
        document_valid=torch.tensor([[True, True, True], [True, True, False]]),
        levels=torch.tensor([[1, 4], [4, 0]]),
        query_hash=torch.arange(2),
        document_hash=torch.arange(6).view(2, 3),
        symmetric=torch.tensor([False, False]),
        group=torch.tensor([0, 0]),
        scores=torch.full((2, 3), torch.nan),
    )
    table = level_statistics(embeddings, labels)
    assert table[:, 0].tolist() == [0, 1, 0, 0, 2]
    assert table[:, 1].tolist() == [0, 1, 0, 0, 0]
    assert table[1, 2].item() == pytest.approx(0.2)
    assert table[4, 2].item() == pytest.approx(-0.2)


def test_labels_bring_scores_from_records() -> None:
    negatives = [{"text": "n", "level": 4, "score": -2}, {"text": "m", "level": 4}]
    record = Record.model_validate(record_values(score=0.1, negatives=negatives))
    labels = make_labels(make_micro_batch([record, None], [record.negatives, []], 2, seed=0, group=0))
    expected = torch.tensor([[0.1, -2.0, torch.nan], [torch.nan] * 3])
    torch.testing.assert_close(labels.scores, expected, rtol=0, atol=0, equal_nan=True)
    both = Labels.cat([labels, labels[[0]]])
    torch.testing.assert_close(both.scores[2], expected[0], rtol=0, atol=0, equal_nan=True)
