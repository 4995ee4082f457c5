"""launch/train.py as a user starts it: the whole corridor with a tiny decoder, and what bad input gets."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from sentence_transformers import SentenceTransformer

from mgh_ds import Encoder, train
from mgh_ds.cli import main as cli
from mgh_ds.distributed.group import free_port
from tests.ranks import start_ranks

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
SAMPLE = Path("mgh_ds/records/sample")
DEEPSPEED = ["deepspeed", "--num_accelerators", "2"]
TRAIN = ["launch/train.py", "--config", "configs/tiny-mistral.yaml"]


def start(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=ENVIRONMENT, text=True, capture_output=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of configs/tiny-mistral.yaml on two ranks, on a few held-out records."""
    folder = tmp_path_factory.mktemp("runs")
    held_out = folder / "held_out.jsonl"
    held_out.write_text("".join((SAMPLE / "held_out.jsonl").open(encoding="utf-8").readlines()[::7]))
    command = [*DEEPSPEED, "--master_port", str(free_port()), *TRAIN]
    finished = start(*command, "--folder", str(folder), "--data.held_out", str(held_out))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "positive above negatives of level 4" in finished.stdout
    assert f"report: {folder / 'tiny-mistral' / 'report.html'}" in finished.stdout
    return folder / "tiny-mistral"


def test_a_run_leaves_everything_behind(run: Path) -> None:
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in steps if entry["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert {entry["stage_name"] for entry in steps if entry["kind"] == "step"} == {
        "level 1",
        "levels 2, 3",
        "level 4",
    }
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-000003", "step-000006"]
    for label in ("before", "after"):
        scores = json.loads((run / "evaluation" / f"{label}.json").read_text())
        assert set(scores["tasks"]) == {"HeldOutRetrieval", "HeldOutReranking", "HeldOutSTS"}
        assert set(scores["levels"]) == {"1", "2", "3", "4"}
    assert {entry["label"] for entry in json.loads((run / "token_weights.json").read_text())} == {
        "before",
        "after",
    }
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    assert (run / "report.html").stat().st_size > 10_000


def test_the_exported_model_is_the_trained_one(run: Path, tmp_path: Path) -> None:
    cli(["export", str(run), str(tmp_path / "model")])
    texts = ["A short text.", "Another one, somewhat longer than the first of the two."]
    ours = Encoder.from_pretrained(tmp_path / "model").encode(texts)
    theirs = SentenceTransformer(str(tmp_path / "model")).encode(texts, normalize_embeddings=True)
    at_the_end = Encoder.from_pretrained(run / "export").encode(texts)
    np.testing.assert_allclose((ours * theirs).sum(axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(ours, at_the_end)
    untrained = Encoder.from_pretrained("tiny-random/mistral").encode(texts)
    assert np.abs(ours - untrained).max() > 1e-3, "training moved the embeddings"
    assert not [path for path in (tmp_path / "model").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_the_report_can_be_written_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.html").read_text()
    cli(["report", str(run)])
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").read_text() == before


def refusal(tmp_path: Path, *arguments: str) -> str:
    """The one line that a refused run prints; asserts that it failed and left no run folder with a
    checkpoint."""
    words = ["--config", "configs/tiny-mistral.yaml", "--folder", str(tmp_path / "runs"), *arguments]
    (code,), (output,) = start_ranks(1, command, words, timeout=100)
    assert code == 1, output
    assert "Traceback" not in output
    assert not list((tmp_path / "runs").rglob("step-*"))
    return output.splitlines()[-1]


def command(words: list[str]) -> int:
    """launch/train.py in a rank that need not import anything; what Python does with SystemExit."""
    try:
        train.main(words)
    except SystemExit as end:
        if not isinstance(end.code, str):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1


@pytest.mark.parametrize("killed", ["launcher", "command"])
def test_ranks_whose_launcher_was_killed_end(killed: str, tmp_path: Path) -> None:
    """DeepSpeed's launcher ends its ranks, but not when it, or the command that started it, is killed by
    force."""
    settings = ["--folder", str(tmp_path), "--data.held_out", "null", "--training.steps", "1000"]
    settings += ["--training.silence_limit_s", "10", "--model.use_instructions", "false"]
    command = [*DEEPSPEED, "--master_port", str(free_port()), *TRAIN, *settings]
    log, ledger = tmp_path / "log", tmp_path / "tiny-mistral" / "ledger.jsonl"
    with log.open("w") as output:
        started = psutil.Popen(command, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
    family = [started]
    try:
        until = time.monotonic() + 120
        while not ledger.exists() or not ledger.stat().st_size:
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        family += started.children(recursive=True)
        (launcher,) = [each for each in family if "deepspeed.launcher.launch" in each.cmdline()]
        ranks = launcher.children()
        assert len(ranks) == 2
        (launcher if killed == "launcher" else started).kill()
        _, left = psutil.wait_procs(ranks, timeout=30)
        left = [each for each in left if each.status() != psutil.STATUS_ZOMBIE]  # nobody may reap orphans
        assert not left, log.read_text()
        assert "error: the launcher is gone; start the same command again to go on" in log.read_text()
        assert started.wait(30) == (0 if killed == "launcher" else -signal.SIGKILL)
    finally:
        for each in [*family, *(started.children(recursive=True) if started.is_running() else ())]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def test_bad_input_gets_one_clear_line(tmp_path: Path) -> None:
    empty, ungraded, unknown = tmp_path / "empty.jsonl", tmp_path / "partly.jsonl", tmp_path / "unknown"
    empty.write_text("")
    records = [json.loads(line) for line in (SAMPLE / "train.jsonl").open(encoding="utf-8")]
    for record in records:
        record["negatives"] = [negative for negative in record["negatives"] if negative["level"] != 4]
    ungraded.write_text("".join(json.dumps(record) + "\n" for record in records))
    unknown.mkdir()
    (unknown / "config.json").write_text('{"model_type": "gpt2"}')

    absent = ["--data.held_out", "held_out.jsonl"]
    alone = start(sys.executable, *TRAIN, "--folder", str(tmp_path / "runs"), *absent)
    assert alone.returncode == 1
    assert alone.stderr.splitlines()[-1] == refusal(tmp_path, *absent)
    assert "Traceback" not in alone.stderr
    assert "held_out.jsonl does not exist" in alone.stderr.splitlines()[-1]
    assert "heat_map_texts must be above 0" in refusal(tmp_path, "--evaluation.heat_map_texts", "0")
    assert "did you mean `training.steps`" in refusal(tmp_path, "--training.step", "3")
    assert "nowhere.jsonl does not exist" in refusal(tmp_path, "--data.train", '["nowhere.jsonl"]')
    assert "empty.jsonl" in refusal(tmp_path, "--data.train", f'["{empty}"]')
    assert "no record has a negative of level 4" in refusal(tmp_path, "--data.train", f'["{ungraded}"]')
    assert "'gpt2' model, which mgh-ds does not know" in refusal(
        tmp_path, "--model.name_or_path", str(unknown)
    )


def test_synthetic_records_are_trained_on_as_they_are(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    scripted = ["--config", "configs/synth-scripted.yaml", "--samples.budget.samples", "150"]
    cli(["synth", "plan", *scripted, "--output", str(plan)])
    cli(["synth", "run", str(plan), "--all"])
    cli(["synth", "merge", str(plan)])
    cli(["data", "validate", str(plan / "merged")])
    command = [*DEEPSPEED, "--master_port", str(free_port()), *TRAIN, "--training.steps", "3"]
    data = [
        "--data.train",
        f"[{plan / 'merged'}]",
        "--data.held_out",
        "null",
        "--folder",
        str(tmp_path / "runs"),
    ]
    finished = start(*command, *data)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    metrics = (tmp_path / "runs" / "tiny-mistral" / "metrics.jsonl").read_text().splitlines()
    steps = [entry for entry in map(json.loads, metrics) if entry["kind"] == "step"]
    assert [entry["stage_name"] for entry in steps] == ["level 1", "levels 2, 3", "level 4"]
