"""Files of arrays that were cut short, or of which a bit flipped: told by name, or read as what they are."""

import numpy as np
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.mining.arrays import Kind, read_arrays, require_kept_scores

KIND = {"scores": Kind((3, 4), np.float64), "rows": Kind((3,), np.int64)}
SCORES, ROWS = np.random.default_rng(0).normal(size=(3, 4)), np.arange(3)


@pytest.fixture(params=["npy", "npz"])
def kept(request, tmp_path):
    """A file, and the kinds of what it holds."""
    path = tmp_path / f"part.{request.param}"
    with path.open("wb") as file:
        if request.param == "npy":
            np.save(file, SCORES)
            return path, {"scores": KIND["scores"]}
        np.savez(file, rows=ROWS, scores=SCORES)
        return path, KIND


def test_arrays_come_in_the_order_in_which_they_are_asked_for(kept):
    path, kinds = kept
    for found, expected in zip(read_arrays(path, **kinds), (SCORES, ROWS), strict=False):
        assert np.array_equal(found, expected)


def test_a_file_that_was_cut_anywhere_is_told(kept):
    path, kinds = kept
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(MghError, match=rf"{path.name} is damaged \(.+\): remove it, and it is made anew"):
            read_arrays(path, **kinds)


@pytest.mark.filterwarnings("ignore")  # of numpy, about dtypes that bits make of others
def test_no_flipped_bit_is_a_traceback_and_an_archive_reads_none_as_data(kept):
    path, kinds = kept
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            scores, *_ = read_arrays(path, **kinds)
        except MghError:
            continue
        assert path.suffix == ".npy" or np.array_equal(scores, SCORES)


@pytest.mark.parametrize("kind", [Kind((4, 3), np.float64), Kind((3, 4), np.float32)])
def test_an_array_of_another_kind_is_told(kept, kind):
    path, kinds = kept
    with pytest.raises(MghError, match=r"scores: float64 \[3, 4\] instead of float"):
        read_arrays(path, **{**kinds, "scores": kind})


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_kept_scores_are_finite_but_where_there_is_nothing(tmp_path, score):
    scores, valid = np.array([0.5, -np.inf]), np.array([True, False])
    require_kept_scores(tmp_path / "s", scores, valid)
    with pytest.raises(MghError, match=r"1 of 2 scores are NaN or infinite"):
        require_kept_scores(tmp_path / "s", scores)
    scores[0] = score
    with pytest.raises(MghError, match=r"s is damaged \(1 of 2 scores"):
        require_kept_scores(tmp_path / "s", scores, valid)
    with pytest.raises(MghError, match="is damaged"):
        require_kept_scores(tmp_path / "s", np.zeros(2), valid)
