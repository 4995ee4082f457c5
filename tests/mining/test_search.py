"""Exact search against a brute force in float64."""

import numpy as np
import pytest
import torch

from mgh_ds.encoding.vectors import Manifest, Vectors
from mgh_ds.mining import search as search_module
from mgh_ds.mining.search import Excluded, TopK, pairs, search

CPU = torch.device("cpu")
NOTHING = pairs([])


def unit(rows, dimensions, seed):
    found = np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def kept(folder, vectors, part_rows=7, dtype="float32"):
    manifest = Manifest(
        model={},
        options={},
        side="document",
        instruction=None,
        prompt="",
        dtype=dtype,
        dimensions=vectors.shape[1],
        count=len(vectors),
        sha256="",
        part_rows=part_rows,
        named={},
    )
    made = Vectors.begin(folder, manifest)
    for part in range(made.parts):
        rows = made.rows(part)
        made.write(part, [str(row) for row in rows], vectors[rows.start : rows.stop])
    return made


def brute_force(queries, documents, k, excluded):
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    scores[excluded.queries, excluded.documents] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(scores, order, 1)
    return np.where(np.isfinite(scores), order, -1), scores


@pytest.mark.parametrize(("documents", "k"), [(5, 5), (40, 1), (100, 12), (300, 300)])
@pytest.mark.parametrize("part_rows", [7, 1000])
def test_the_order_is_that_of_a_brute_force(tmp_path, monkeypatch, documents, k, part_rows):
    monkeypatch.setattr(search_module, "BLOCK_QUERIES", 4)
    monkeypatch.setattr(search_module, "BLOCK_EXACT", 3)
    queries, corpus = unit(9, 8, 0), unit(documents, 8, 1)
    random = np.random.default_rng(2)
    excluded = pairs((query, int(row)) for query in range(9) for row in random.integers(-1, documents, 3))
    found = search(queries, kept(tmp_path / "v", corpus, part_rows), k, excluded, CPU)
    rows, scores = brute_force(queries, corpus, k, excluded)
    assert np.array_equal(found.documents, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-12)


def test_equal_documents_stand_in_the_order_of_the_corpus(tmp_path):
    few = unit(3, 8, 3)
    corpus = np.concatenate([few] * 20)  # document i is of kind i mod 3
    found = search(unit(4, 8, 4), kept(tmp_path / "v", corpus), 25, NOTHING, CPU)
    for rows in found.documents.tolist():
        first, second = rows[0] % 3, rows[20] % 3
        assert rows == [*range(first, 60, 3), *range(second, 60, 3)][:25]


def test_of_equal_scores_the_earlier_document_stays_among_the_best():
    top = TopK(2, 3, CPU)
    top.add(torch.tensor([[1.0, 2.0, 2.0, 1.0], [-torch.inf, 0.0, 0.0, 0.0]]), first=0)
    top.add(torch.tensor([[2.0, 3.0, 1.0, 1.0], [0.0, 0.0, 0.0, -1.0]]), first=4)
    top.add(torch.tensor([[2.0, 0.0], [0.0, 0.5]]), first=8)
    assert top.documents.tolist() == [[5, 1, 2], [9, 1, 2]]
    assert top.scores.tolist() == [[3.0, 2.0, 2.0], [0.5, 0.0, 0.0]]


def test_float16_vectors_are_searched_as_what_they_are(tmp_path):
    queries, corpus = unit(5, 8, 5), unit(50, 8, 6)
    made = kept(tmp_path / "v", corpus, dtype="float16")
    found = search(queries, made, 10, NOTHING, CPU)
    assert np.array_equal(found.documents, brute_force(queries, corpus.astype(np.float16), 10, NOTHING)[0])


def test_a_query_whose_documents_are_all_excluded_finds_none(tmp_path):
    every = Excluded(np.zeros(6, np.int64), np.arange(6))
    found = search(unit(2, 8, 7), kept(tmp_path / "v", unit(6, 8, 8)), 3, every, CPU)
    assert found.documents[0].tolist() == [-1, -1, -1]
    assert np.isneginf(found.scores[0]).all()
    assert (found.documents[1] >= 0).all()
