"""Backbones of each family: the real MiniLM, and tiny decoders with random weights."""

from pathlib import Path

import pytest
import torch

from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.embedder import EmbeddingModel, load_model
from mgh_ds.model.settings import Settings
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.model.weights import MINILM, resolve_model

DECODERS = ["mistral", "llama", "qwen2", "qwen3", "phi3", "smollm3", "gemma2", "gemma3_text"]
ENCODERS = ["roberta", "distilbert", "electra", "modernbert"]
FAMILIES = ["minilm", *ENCODERS, *DECODERS]

TEXTS = [
    "The harbour master keeps a list.",
    "Why?",
    "How do I replace the thermostat of a dishwasher that no longer heats, and what will it cost?",
    "Light from the galaxy left it long before the first fish crawled onto land.",
]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Family → the folder of a model of that family."""
    root = tmp_path_factory.mktemp("backbones")
    tiny = ["bert", *ENCODERS, *DECODERS]
    for family in tiny:
        make_tiny_model(family, root / family)
    return {"minilm": resolve_model(MINILM)} | {family: root / family for family in tiny}


@pytest.fixture(scope="session")
def load(folders):
    """Loads a family's model and a tokenizer that pads; keywords are settings, the pooling's among them."""

    def load(family: str, *, padding_free: bool = False, **options) -> tuple[EmbeddingModel, Tokenizer]:
        settings = Settings(pooling=PoolingConfig(), max_length=128).changed(**options)
        return load_model(folders[family], settings, padding_free=padding_free)

    return load
