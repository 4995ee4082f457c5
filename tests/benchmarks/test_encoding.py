"""The benchmark of encoding: both sides find the same, and a contender that does not is refused."""

import numpy as np
import pytest

from benchmarks import encoding, encoding_worker
from mgh_ds.common.errors import MghError


@pytest.fixture
def options(tmp_path):
    arguments = ["--documents", "70", "--rounds", "3", "--output", str(tmp_path / "results")]
    return encoding._parser().parse_args(arguments)


def test_both_sides_encode_the_same_texts_alike(options, tmp_path):
    job = encoding.prepare(options, tmp_path)
    assert job["documents"] == 70
    found = []
    for name, encode in (("ours", encoding_worker.ours), ("theirs", encoding_worker.theirs)):
        (tmp_path / name).mkdir()
        found.append(np.concatenate([np.load(file) for file in encode(job, tmp_path / name)]))
    assert found[0].shape == found[1].shape == (70, 384)
    assert (found[0] * found[1]).sum(axis=1).min() > encoding.LEAST_COSINE


def test_other_vectors_are_refused_and_ratios_are_formed_in_a_round(options, tmp_path, monkeypatch):
    job = encoding.prepare(options, tmp_path)
    same = np.eye(70, dtype=np.float32)
    given = {}
    for name, seconds in (("ours", [50, 1, 2, 3]), ("theirs", [1, 2, 2, 2])):
        np.save(tmp_path / f"{name}.npy", same)
        files = [str(tmp_path / f"{name}.npy")]
        given[name] = [{"seconds": second, "peak_mib": 1.0, "files": files} for second in seconds]
    monkeypatch.setattr(encoding, "take_turns", lambda *_: given)
    encoded, figures = encoding.measure(options, job, tmp_path)
    assert (encoded.least_cosine, figures.ratio, figures.upper_quartile) == (1.0, 1.0, 1.25)
    np.save(tmp_path / "ours.npy", same[::-1])
    with pytest.raises(MghError, match=r"a text's two vectors have a cosine of 0\.000000"):
        encoding.measure(options, job, tmp_path)
    np.save(tmp_path / "ours.npy", same[1:])
    with pytest.raises(MghError, match=r"ours are \[69, 70\] vectors, theirs \[70, 70\]"):
        encoding.measure(options, job, tmp_path)
