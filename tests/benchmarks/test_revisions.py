"""The comparison of two trees: reading and figures; that one real run has the moments."""

import json
from pathlib import Path

import pytest

from benchmarks import revisions
from benchmarks.clocked_train import moment, watch_steps
from benchmarks.revisions import WARM_UP, Tree, Turn
from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines


def test_lines_of_steps_say_when_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr(JsonLines, "append", JsonLines.append)  # put back at the end
    watch_steps(moment)
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.append({"kind": "step", "step": 1})
    lines.append({"kind": "checkpoint", "step": 1})
    lines.append({"kind": "step", "step": 2})
    first, checkpoint, second = lines.entries()
    assert 0 < first["moment"] < second["moment"]
    assert "moment" not in checkpoint


def test_the_warm_up_is_left_out(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for step in range(1, WARM_UP + 4):
        moment = 100 * min(step, WARM_UP) + max(0, step - WARM_UP)
        lines.append({"kind": "step", "step": step, "moment": moment, "seconds": float(step)})
        lines.append({"kind": "checkpoint", "step": step})
    turn = revisions.read_turn(lines.path)
    assert turn == Turn([1, 1, 1], [WARM_UP + 1.0, WARM_UP + 2.0, WARM_UP + 3.0])


def test_a_run_of_too_few_steps_is_refused(tmp_path):
    with pytest.raises(MghError, match="has 0 steps"):
        revisions.read_turn(tmp_path / "metrics.jsonl")


def test_the_ratio_is_formed_in_each_round():
    rounds = [
        {"before": Turn([0.1 * slow], [0.2]), "after": Turn([0.1 * slow * ratio], [0.1])}
        for slow, ratio in ((1, 0.8), (5, 0.9), (1, 0.7))
    ]
    found = revisions.summary(rounds)
    assert found["step_ms"] == pytest.approx(
        {"before": 100, "after": 80, "ratio": 0.8, "lower_quartile": 0.75, "upper_quartile": 0.85}
    )
    assert found["stated_ms"]["ratio"] == pytest.approx(0.5)


def test_a_revision_that_does_not_exist_is_refused():
    with pytest.raises(MghError, match="no-such is no revision"), revisions.worktree("no-such"):
        pass


@pytest.fixture
def two_trees(tmp_path, monkeypatch):
    """No tree is checked out and nothing is trained: the later one takes half the time."""
    ran = []

    def train(tree: Path, run: Path, _, settings) -> None:
        ran.append((tree.name, settings))
        lines = JsonLines(run / "metrics.jsonl")
        step_s = {"old": 0.2, "new": 0.1}[tree.name]
        for step in range(1, WARM_UP + 3):
            lines.append({"kind": "step", "step": step, "moment": step * step_s, "seconds": step_s})

    class Worktree:
        def __init__(self, revision):
            assert revision == "v1"

        def __enter__(self):
            return Tree(tmp_path / "old", "a" * 40, False)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(revisions, "worktree", Worktree)
    monkeypatch.setattr(revisions, "ROOT", tmp_path / "new")
    monkeypatch.setattr(revisions, "commit", lambda _: "b" * 40)
    monkeypatch.setattr(revisions, "is_changed", lambda _: True)
    monkeypatch.setattr(revisions, "check_imports", lambda _: None)
    monkeypatch.setattr(revisions, "train", train)
    return ran


def test_the_file_names_both_commits_and_the_advice_claims_nothing(two_trees, tmp_path, capsys):
    output = ["--output", str(tmp_path), "--rounds", "2", "--training.micro_batch", "2"]
    assert revisions.main(["v1", *output]) == 0
    assert [name for name, _ in two_trees] == ["old", "new", "new", "old"]
    assert all(settings == ["--training.micro_batch", "2"] for _, settings in two_trees)
    found = json.loads((tmp_path / "cpu-revisions.json").read_text(encoding="utf-8"))
    assert found["before"] == {"commit": "a" * 40, "changed": False}
    assert found["after"] == {"commit": "b" * 40, "changed": True}
    assert found["step_ms"]["ratio"] == pytest.approx(0.5)
    printed = capsys.readouterr().out
    assert "before, aaaaaaa | after, bbbbbbb and changes" in printed
    assert "| from step to step | 200.0 | 100.0 | 0.500 (0.500 to 0.500) |" in printed
    assert "4 NVIDIA GPUs" in printed
    assert "python -m benchmarks.revisions v1 --device cuda" in printed


def test_a_rank_that_fails_ends_the_turn_with_its_words(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys, time\nif os.environ['RANK'] == '0': sys.exit('it broke')\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(revisions, "TRAIN", script)
    options = revisions._parser().parse_args(["v1", "--ranks", "2"])
    with pytest.raises(MghError, match="it broke"):
        revisions.train(tmp_path, tmp_path / "run", options, [])


def test_the_rank_runs_its_own_tree():
    revisions.check_imports(Path.cwd())
