"""The benchmark of mining: both sides find the same, and figures are formed round by round."""

import json

import pytest

from benchmarks import mining, mining_worker
from mgh_ds.common.errors import MghError


@pytest.fixture
def options(tmp_path):
    arguments = ["--records", "sample:train", "--queries", "6", "--depth", "8", "--negatives", "2"]
    return mining._parser().parse_args([*arguments, "--rounds", "3", "--output", str(tmp_path / "results")])


def turns(seconds, negatives):
    return [{"seconds": each, "peak_mib": 100.0 + each, "negatives": negatives} for each in seconds]


@pytest.mark.system  # a model of real size, and the other library's imports
def test_both_contenders_find_the_same_negatives(options, tmp_path):
    job = mining.prepare(options, tmp_path)
    corpus = [json.loads(line)["text"] for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    assert job["documents"] == len(corpus) == len(set(corpus)) > job["queries"] == 6
    found = []
    for name, mine in (("ours", mining_worker.ours), ("theirs", mining_worker.theirs)):
        (tmp_path / name).mkdir()
        found.append(mine(job, tmp_path / name))
    assert max(map(len, found[0])) == 2
    assert mining._same(found) == 1


def test_ratios_are_formed_in_a_round_and_the_first_does_not_count(options, tmp_path, monkeypatch):
    job = mining.prepare(options, tmp_path)
    found = [["a", "b"], ["c"]]
    given = {"ours": turns([50, 1, 2, 3], found), "theirs": turns([1, 2, 2, 2], found)}
    monkeypatch.setattr(mining, "take_turns", lambda *_: given)
    mined, figures = mining.measure(options, job, tmp_path)
    assert (figures.ratio, figures.lower_quartile, figures.upper_quartile) == (1.0, 0.75, 1.25)
    assert (figures.ours_s, figures.theirs_s, mined.same_negatives) == (2, 2, 1.0)
    given["theirs"] = turns([1, 2, 2, 2], [["a", "x"], ["c"]])
    with pytest.raises(MghError, match=r"only 50\.0% of the negatives are the same"):
        mining.measure(options, job, tmp_path)
