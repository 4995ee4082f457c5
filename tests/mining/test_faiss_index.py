"""Search by faiss: `Flat` is our own search to the bit, other indexes say that they are approximate."""

import numpy as np
import pytest

from mgh_ds import cli
from mgh_ds.common.errors import MghError
from mgh_ds.mining import faiss_index
from mgh_ds.mining.faiss_index import FaissIndex, IndexSpec
from mgh_ds.mining.search import Excluded, pairs, search
from tests.mining.test_mine import corpus, records, result, run, small_parts  # noqa: F401
from tests.mining.test_search import CPU, NOTHING, kept, unit

FLAT = IndexSpec("Flat")


def same(found, expected) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("documents", "k"), [(5, 5), (40, 1), (100, 12), (300, 300)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_flat_finds_what_our_search_finds(tmp_path, documents, k, dtype):
    queries, random = unit(9, 8, 0), np.random.default_rng(2)
    vectors = kept(tmp_path / "v", unit(documents, 8, 1), dtype=dtype)
    excluded = pairs((query, int(row)) for query in range(9) for row in random.integers(-1, documents, 3))
    index = FaissIndex(tmp_path / "index", vectors, FLAT)
    assert same(index.search(queries, k, excluded), search(queries, vectors, k, excluded, CPU))


def test_equal_documents_stand_in_the_order_of_the_corpus_however_many_there_are(tmp_path):
    vectors = kept(tmp_path / "v", np.concatenate([unit(3, 8, 3)] * 50))  # document i is of kind i mod 3
    queries = unit(4, 8, 4)
    found = FaissIndex(tmp_path / "index", vectors, FLAT).search(queries, 5, NOTHING)
    for rows in found.documents.tolist():
        assert rows == list(range(rows[0] % 3, 150, 3))[:5]
    assert same(found, search(queries, vectors, 5, NOTHING, CPU))


def test_documents_that_are_left_out_take_no_place_from_others(tmp_path):
    vectors, queries = kept(tmp_path / "v", unit(200, 8, 8)), unit(2, 8, 7)
    order = np.argsort(-(queries[0] @ unit(200, 8, 8).T))
    best = Excluded(np.zeros(150, np.int64), order[:150])
    every = Excluded(np.zeros(200, np.int64), np.arange(200))
    for excluded in (best, every):
        expected = search(queries, vectors, 6, excluded, CPU)
        for spec in (FLAT, IndexSpec("IVF8,Flat", "nprobe=8")):
            index = FaissIndex(tmp_path / spec.factory, vectors, spec)
            assert same(index.search(queries, 6, excluded), expected), spec


def test_an_approximate_index_gives_true_cosines_of_what_it_finds(tmp_path):
    vectors, queries = kept(tmp_path / "v", unit(300, 8, 1)), unit(20, 8, 0)
    expected = search(queries, vectors, 5, NOTHING, CPU)
    narrow, wide = (
        FaissIndex(tmp_path / "index", vectors, IndexSpec("IVF16,Flat", f"nprobe={probed}")).search(
            queries, 5, NOTHING
        )
        for probed in (1, 16)
    )
    assert same(wide, expected), "all lists are searched"
    right = (narrow.documents[:, :, None] == expected.documents[:, None]).any(axis=2)
    assert 0 < right.mean() < 1
    cosines = (queries[:, None].astype(float) * vectors.take(narrow.documents.ravel()).reshape(20, 5, 8)).sum(
        -1
    )
    assert np.array_equal(narrow.scores, np.where(narrow.documents >= 0, cosines, -np.inf))
    assert (np.diff(narrow.scores) <= 0).all()


def test_an_index_is_built_once_and_only_of_these_documents(tmp_path, monkeypatch):
    vectors = kept(tmp_path / "v", unit(30, 8, 1))
    FaissIndex(tmp_path / "index", vectors, FLAT)
    monkeypatch.setattr(faiss_index, "_build", None)
    FaissIndex(tmp_path / "index", vectors, FLAT)
    with pytest.raises(MghError, match="factory: Flat → HNSW8"):
        FaissIndex(tmp_path / "index", vectors, IndexSpec("HNSW8"))
    file = tmp_path / "index" / faiss_index.FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MghError, match=r"index\.faiss is damaged \(.*\): remove it, and it is built anew"):
        FaissIndex(tmp_path / "index", vectors, FLAT)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (IndexSpec("Nonsense"), "--index Nonsense: faiss makes no such index: could not parse index string"),
        (IndexSpec("Flat", "nprobe=3"), "--index-parameters nprobe=3: faiss refuses them for Flat: "),
        (IndexSpec("IVF4,Flat", "depth=3"), "--index-parameters depth=3: faiss refuses them for IVF4,Flat: "),
    ],
)
def test_what_faiss_does_not_know_is_refused_before_anything_is_encoded(run, tmp_path, spec, said):  # noqa: F811
    with pytest.raises(MghError, match=said):
        run(tmp_path / "out", index=spec)
    assert not (tmp_path / "out").exists()


def test_too_few_documents_to_train_an_index_are_counted(tmp_path):
    with pytest.raises(
        MghError, match=r"--index IVF16,Flat cannot be built of 9 documents: .*number of clusters"
    ):
        FaissIndex(tmp_path / "index", kept(tmp_path / "v", unit(9, 8, 1)), IndexSpec("IVF16,Flat"))
    assert not (tmp_path / "index" / faiss_index.FILE).exists()


def test_parameters_that_cannot_be_searched_by_are_said(tmp_path):
    vectors, spec = kept(tmp_path / "v", unit(30, 8, 1)), IndexSpec("IVF2,Flat", "nprobe=-1")
    index = FaissIndex(tmp_path / "index", vectors, spec)
    with pytest.raises(MghError, match=r"--index IVF2,Flat nprobe=-1: faiss cannot search: .*nprobe"):
        index.search(unit(2, 8, 0), 3, NOTHING)


def test_mining_by_flat_writes_the_same_records(run, corpus, tmp_path):  # noqa: F811
    run(tmp_path / "own", corpus)
    run(tmp_path / "flat", corpus, index=FLAT)
    for name in ("records.jsonl", "mining.json"):
        assert (tmp_path / "flat" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


def test_records_say_that_their_search_was_approximate(run, corpus, tmp_path):  # noqa: F811
    said = run(tmp_path / "out", corpus, index=IndexSpec("HNSW8", "efSearch=64"))
    assert said["asked"]["index"] == "HNSW8 efSearch=64"
    assert {record.source["mined_index"] for record in result(tmp_path / "out")} == {
        "HNSW8 efSearch=64, approximate"
    }
    with pytest.raises(MghError, match=r"index\.parameters: efSearch=64 → None"):
        run(tmp_path / "out", corpus, index=IndexSpec("HNSW8"))


def test_the_verb_searches_by_the_index_that_is_named(records, model, tmp_path):  # noqa: F811
    words = ["data", "mine", str(records), str(tmp_path / "out"), "--model", model, "--pooling", "mean"]
    cli.main([*words, "--device", "cpu", "--index", "IVF2,Flat", "--index-parameters", "nprobe=2"])
    found = {record.source.get("mined_index") for record in result(tmp_path / "out")}
    assert "IVF2,Flat nprobe=2, approximate" in found
