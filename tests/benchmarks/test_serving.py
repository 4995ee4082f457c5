"""The benchmark of serving: what is exported for it, and how its ratios are formed."""

import json

import numpy as np
import pytest

from benchmarks import serving
from mgh_ds.common.errors import MghError


def test_the_same_weights_are_exported_with_either_pooling(tmp_path):
    options = serving._parser().parse_args(["--documents", "7", "--rounds", "3"])
    job = serving.prepare("tiny-random/llama", options, tmp_path)
    assert (job["documents"], job["rounds"]) == (7, 4)
    names = {}
    for pooling in ("ata", "mean"):
        config = json.loads((tmp_path / pooling / "config.json").read_text())
        names[pooling] = config["architectures"]
    # Its own model is what stock vLLM is told to take.
    assert names == {"ata": ["MghEmbedder"], "mean": ["MghEmbedder", "LlamaModel"]}


def test_ratios_are_formed_in_a_round_and_other_vectors_are_refused():
    same = np.eye(8, dtype=np.float32)
    vectors = dict.fromkeys(("served", "encoder", "stock", "mean"), same)
    seconds = {"served": [2.0, 2.0, 4.0], "encoder": [1.0, 2.0, 2.0], "stock": [1.0, 1.0, 1.0]}
    found = serving.compare("m", 2, seconds, vectors)
    assert (found.served, found.encoder, found.stock) == (4, 4, 8)
    assert (found.to_encoder, found.to_encoder_least, found.to_encoder_most) == (0.5, 0.5, 1)
    assert (found.to_stock, found.to_stock_least, found.to_stock_most) == (0.5, 0.25, 0.5)
    assert found.rounds == 3
    with pytest.raises(MghError, match=r"in vLLM and of Encoder have a cosine of 0\.000000"):
        serving.compare("m", 2, seconds, vectors | {"served": same[::-1]})
