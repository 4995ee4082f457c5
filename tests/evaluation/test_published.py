"""MTEB's published figures, reproduced with the real data where there are any."""

import os
from pathlib import Path

import pytest

from mgh_ds import Encoder
from mgh_ds.evaluation.local_tasks import local_tasks
from mgh_ds.evaluation.run import evaluate
from mgh_ds.evaluation.tables import PUBLISHED, published


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.skipif("MGH_DATA_DIR" not in os.environ, reason="MGH_DATA_DIR names no folder with MTEB data")
@pytest.mark.parametrize("task", PUBLISHED)
def test_published_figure(minilm: Encoder, task: str) -> None:
    result = evaluate(minilm, local_tasks([task], Path(os.environ["MGH_DATA_DIR"])), label="minilm")
    assert 100 * result.tasks[task]["score"] == pytest.approx(published(result)[task], abs=0.05)
