"""Cross-encoders: tiny ones with random weights, which score pairs as transformers does, and what is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.judges import load_cross_encoder
from mgh_ds.model.tiny import make_tiny_model

PAIRS = [
    ("Which enzymes break down starch?", "Light from the galaxy left it long ago."),
    ("Why is the sky blue?", "The committee asked for a second draft."),
]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bert"
    make_tiny_model("bert", folder)
    return folder


def with_head(embedder: Path, folder: Path, labels: int) -> Path:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(embedder, num_labels=labels)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedder).save_pretrained(folder)
    return folder


def test_a_cross_encoder_gives_the_probability_of_each_pair(embedder: Path, tmp_path: Path) -> None:
    folder = with_head(embedder, tmp_path / "scorer", labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        expected = [
            torch.sigmoid(model(**tokenizer(*pair, return_tensors="pt")).logits).item() for pair in PAIRS
        ]
    scores = load_cross_encoder(str(folder))(PAIRS)
    assert scores == pytest.approx(np.array(expected), abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-3


def test_a_model_without_a_head_for_scores_is_no_cross_encoder(embedder: Path) -> None:
    with pytest.raises(MghError, match=r"has the architecture BertModel: its weights lack a head for scores"):
        load_cross_encoder(str(embedder))


def test_a_model_of_three_labels_is_no_judge_of_relevance(embedder: Path, tmp_path: Path) -> None:
    folder = with_head(embedder, tmp_path / "nli", labels=3)
    with pytest.raises(MghError, match=r"gives 3 numbers a pair"):
        load_cross_encoder(str(folder))


def test_a_cross_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MghError, match=r"cross-encoder '.*/nowhere' cannot be loaded"):
        load_cross_encoder(str(tmp_path / "nowhere"))


def test_a_cross_encoder_whose_weights_were_cut_short_is_named(embedder: Path, tmp_path: Path) -> None:
    folder = with_head(embedder, tmp_path / "scorer", labels=1)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MghError, match=r"cross-encoder '.*/scorer' cannot be loaded"):
        load_cross_encoder(str(folder))
