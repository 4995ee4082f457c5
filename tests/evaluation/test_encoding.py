"""Each distinct input is encoded once, under its own instruction, and comes back in its place."""

import io
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from mgh_ds import Encoder
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.encoding import Embeddings, Input


@pytest.fixture
def calls(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, list[str]]]:
    """Instruction and texts of every call that reaches the encoder."""
    seen: list[tuple[str | None, list[str]]] = []
    encode = minilm.encode

    def spy(texts: list[str], instruction: str | None = None, **options: Any) -> np.ndarray:
        seen.append((instruction, list(texts)))
        return encode(texts, instruction=instruction, **options)

    monkeypatch.setattr(minilm, "encode", spy)
    return seen


def test_vectors_are_the_encoders_own_in_the_order_asked_for(minilm: Encoder) -> None:
    texts = ["short", "a rather longer text about rivers and their sources", "short", "rivers"]
    vectors = Embeddings(minilm, batch_size=2)([Input(None, text) for text in texts])
    # batches of other lengths round differently
    np.testing.assert_allclose(vectors, minilm.encode(texts), atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_repeated_texts_are_encoded_once_and_instructions_kept_apart(minilm: Encoder, calls: list) -> None:
    inputs = [Input(None, "a"), Input("find", "a"), Input(None, "a"), Input("find", "bb"), Input(None, "ccc")]
    vectors = Embeddings(minilm)(inputs)
    assert calls == [(None, ["ccc", "a"]), ("find", ["bb", "a"])]
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


@pytest.mark.parametrize(("remember", "expected"), [(True, 1), (False, 2)])
def test_remembers_only_when_told(minilm: Encoder, calls: list, remember: bool, expected: int) -> None:
    embed = Embeddings(minilm, remember=remember)
    first, second = embed([Input(None, "a")]), embed([Input(None, "a")])
    assert len(calls) == expected
    np.testing.assert_array_equal(first, second)


def test_bar_counts_the_texts_that_are_encoded(minilm: Encoder) -> None:
    bar = tqdm(total=0, file=io.StringIO())
    Embeddings(minilm, batch_size=1, bar=bar)([Input(None, text) for text in ("a", "b", "a", "c", "d", "e")])
    assert (bar.n, bar.total) == (5, 5)


def test_nan_is_refused_and_names_the_text(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(texts: list[str], **_: Any) -> np.ndarray:
        return np.array([[np.nan if text == "bad" else 1.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(minilm, "encode", broken)
    with pytest.raises(MghError, match=r"1 of 2 texts.*'bad'"):
        Embeddings(minilm)([Input(None, "good"), Input(None, "bad")])
