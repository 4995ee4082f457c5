"""What a mining says that it made is there, or is made anew; what is damaged on the way is told."""

import json
import shutil

import numpy as np
import pytest

from mgh_ds import cli
from mgh_ds.common.errors import MghError
from mgh_ds.mining import result as result_module
from mgh_ds.mining.rescoring import Judge
from mgh_ds.mining.result import settled
from tests.mining import test_relabel
from tests.mining.test_mine import corpus, records, run, small_parts  # noqa: F401

# Fixtures that are imported are arguments too.
# ruff: noqa: F811

relabel_run = test_relabel.run
RESULT = ("records.jsonl", "mining.json")


def by_length(pairs):
    return np.array([len(text) / 200 for _, text in pairs])


JUDGE = Judge("by-length", {"weights": "1"}, lambda: by_length)


def junk(path):
    with path.open("a") as file:
        file.write("junk\n")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def without_checksum(path):
    """As versions wrote it that kept none."""
    report = path.with_name("mining.json")
    said = json.loads(report.read_text())
    del said[result_module.SHA256], said["asked"]["judge_fingerprint"]
    report.write_text(json.dumps(said))


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), junk, cut, without_checksum])
def test_a_result_that_is_missing_or_differs_is_made_anew(run, corpus, tmp_path, harm):
    out = tmp_path / "out"
    first = run(out, corpus)
    before = [(out / name).read_bytes() for name in RESULT]
    harm(out / "records.jsonl")
    assert run(out, corpus) == first
    assert [(out / name).read_bytes() for name in RESULT] == before


def test_a_result_that_is_there_is_not_written_again(tmp_path):
    def write(path):
        path.write_text("once")
        return {"records": 1}

    first = settled(tmp_path, {"model": "m"}, write)
    assert settled(tmp_path, {"model": "m"}, lambda _: pytest.fail("written again")) == first


def test_killed_while_it_writes_anew_it_is_not_finished(tmp_path):
    settled(tmp_path, {}, lambda path: path.write_text("one") and {})
    (tmp_path / "records.jsonl").unlink()

    def die(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settled(tmp_path, {}, die)
    assert not (tmp_path / "mining.json").exists(), "it would speak of records that are not there"


@pytest.mark.parametrize("content", ["{}", "[]", '{"asked": 3}', "", "{", "\udc80"])
def test_a_damaged_report_is_told(run, tmp_path, content):
    run(tmp_path / "out")
    (tmp_path / "out" / "mining.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(MghError, match=r"mining\.json is damaged \(.+\): remove it, and it is made anew"):
        run(tmp_path / "out")


@pytest.mark.parametrize("name", ["candidates/part-00001.npz", "rescored/part-00002.npy"])
@pytest.mark.parametrize("size", [0, 40, -5])
def test_a_damaged_part_is_told_and_made_anew_once_it_is_removed(run, corpus, tmp_path, name, size):
    out = tmp_path / "out"
    run(out, corpus, judge=JUDGE)
    before = (out / "records.jsonl").read_bytes()
    part = out / name
    part.write_bytes(part.read_bytes()[:size])
    (out / "mining.json").unlink()
    with pytest.raises(MghError, match=rf"{part.name} is damaged \(.+\): remove it, and it is made anew"):
        run(out, corpus, judge=JUDGE)
    part.unlink()
    run(out, corpus, judge=JUDGE)
    assert (out / "records.jsonl").read_bytes() == before


def test_scores_that_were_kept_and_are_none_are_told(run, tmp_path):
    out = tmp_path / "out"
    run(out, judge=JUDGE)
    part = out / "rescored" / "part-00002.npy"
    scores = np.load(part)
    scores[1, 0] = np.nan
    np.save(part, scores)
    (out / "mining.json").unlink()
    with pytest.raises(MghError, match=r"part-00002\.npy is damaged \(1 of 64 scores are NaN or infinite"):
        run(out, judge=JUDGE)


@pytest.mark.parametrize("harm", [cut, lambda path: np.save(path, np.load(path) * np.nan)])
def test_damaged_scores_of_a_relabel_pass_are_told(relabel_run, tmp_path, harm):
    out = tmp_path / "out"
    relabel_run(out)
    harm(out / "scores" / "part-00000.npy")
    (out / "mining.json").unlink()
    with pytest.raises(MghError, match=r"part-00000\.npy is damaged \(.+\): remove it, and it is made anew"):
        relabel_run(out)


@pytest.mark.parametrize("task", [["--negatives", "2"], ["--relabel"]])
def test_a_model_by_another_name_is_the_same_model(records, model, tmp_path, monkeypatch, task):
    words = ["data", "mine", str(records), str(tmp_path / "out"), "--device", "cpu", *task]
    shutil.copytree(model, tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    cli.main([*words, "--model", "bert"])
    first = (tmp_path / "out" / "mining.json").read_bytes()
    cli.main([*words, "--model", str(tmp_path / "bert")])
    assert (tmp_path / "out" / "mining.json").read_bytes() == first


def test_a_judge_by_another_name_is_the_same_judge_and_none_is_another(run, tmp_path):
    first = run(tmp_path / "out", judge=JUDGE)
    assert run(tmp_path / "out", judge=Judge("elsewhere", JUDGE.fingerprint, JUDGE.load)) == first
    with pytest.raises(MghError, match=r"chosen otherwise \(judge_fingerprint: \w+ → None\)"):
        run(tmp_path / "out")
