"""Exports of every family in vLLM itself: the vectors are those of `Encoder`.

Tiny models with random weights, one engine after the other in one process. Where they have windows, these are
of four tokens on each side.
"""

import json
import random
import shutil
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from mgh_ds.model.encoder import Encoder
from mgh_ds.model.tiny import CONFIGS, cached_tiny_model
from tests.system.vllm_embeddings import INSTRUCTION, LEAST_COSINE, part, run_job, texts_of_all_lengths
from tests.system.vllm_marks import FAMILIES

pytestmark = [*FAMILIES, pytest.mark.timeout(900)]

MAX_LENGTH = 64
WINDOW = {"sliding_window": 4, "use_sliding_window": True}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
# Name → family, and what its config.json says otherwise: most tiny models have no windows of their own.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in CONFIGS},
    "xlm-roberta": ("roberta", {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"]}),
    "mistral-windows": ("mistral", WINDOW),
    "phi3-windows": ("phi3", WINDOW),
    "qwen2-windows": ("qwen2", MIXED),
    "qwen3-windows": ("qwen3", MIXED),
    "smollm3-windows": ("smollm3", MIXED),
}
SETTINGS: list[dict[str, Any]] = [
    {"pooling": "ata", "column_transform": "log1p", "sink": "clip"},
    {"pooling": "mean"},
    {"pooling": "ata", "column_transform": "visible_mean", "layers": [0, -1], "bidirectional": False},
    {"pooling": "ata", "column_transform": "sqrt", "dimensions": 48},
    {"pooling": "weighted_mean", "include_instruction": True},
    {"pooling": "ata", "column_transform": "softmax", "sink": "first", "include_bos": False},
    {"pooling": "last", "bidirectional": False},
]
PLAIN = dict(zip((name for name in MODELS if "-windows" not in name), cycle(SETTINGS), strict=False))
# With windows a family has the same settings, so that they alone differ.
WINDOWED = {name: PLAIN[family] for name, (family, _) in MODELS.items() if "-windows" in name}
CASES = PLAIN | WINDOWED


class Case(NamedTuple):
    export: Path
    texts: list[str]  # as a server is given them
    wanted: NDArray[np.float32]
    vectors: NDArray[np.float32]


def folder_of(name: str, root: Path) -> Path:
    """The model's folder, a changed copy where its config.json differs from the family's."""
    family, changes = MODELS[name]
    if not changes:
        return cached_tiny_model(family)
    folder = shutil.copytree(cached_tiny_model(family), root / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Texts of all lengths, some below an instruction, twice: in another order they share other batches."""
    root = tmp_path_factory.mktemp("families")
    texts = texts_of_all_lengths(160, 100)
    some = texts[:40]
    order = random.Random(1).sample(range(len(texts + some)), len(texts + some))
    parts, wanted = [], []
    for name, settings in CASES.items():
        encoder = Encoder.from_pretrained(
            folder_of(name, root), max_length=MAX_LENGTH, device="cpu", **settings
        )
        encoder.save(root / f"{name}-export")
        told = texts + [encoder.tokenizer.prefix(INSTRUCTION) + text for text in some]
        vectors = np.concatenate([encoder.encode(texts), encoder.encode(some, instruction=INSTRUCTION)])
        given = told + [told[i] for i in order]
        parts.append(part(root / f"{name}-export", "float32", given, root / f"{name}.npy"))
        wanted.append(np.concatenate([vectors, vectors[order]]))
    found, _ = run_job(root, parts)
    return {
        name: Case(Path(each["folder"]), each["texts"], expected, vectors)
        for name, each, expected, vectors in zip(CASES, parts, wanted, found, strict=True)
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_vectors_are_those_of_the_encoder(name: str, served: dict[str, Case]) -> None:
    case = served[name]
    assert case.vectors.shape == case.wanted.shape
    assert np.abs(np.linalg.norm(case.vectors, axis=1) - 1).max() < 1e-5
    assert (case.vectors * case.wanted).sum(axis=1).min() >= LEAST_COSINE["float32"]


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_narrow_enough_to_prove_something(name: str, served: dict[str, Case]) -> None:
    without = served[MODELS[name][0]].vectors
    assert (served[name].vectors * without).sum(axis=1).min() < 0.99
