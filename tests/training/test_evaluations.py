"""Evaluations in the loop: the same for every number of ranks, no trace in training, none lost or repeated by
a kill, and what follows from them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgh_ds.cli import main as cli
from mgh_ds.common import files
from mgh_ds.common.config import dump_config, load_config
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.exits import ExitCode
from mgh_ds.training import trainer
from mgh_ds.training.config import DataConfig, EvaluationConfig, RunConfig
from mgh_ds.training.evaluations import (
    best_step,
    check_data,
    evaluation_lines,
    fallen,
    is_due,
    is_exhausted,
    value_of,
)
from mgh_ds.training.export import scores_of
from mgh_ds.training.run_folder import RunFolder
from tests.evaluation.conftest import write_data
from tests.ranks import Ranks, run_ranks, start_ranks
from tests.training import evaluation_worker, run_worker
from tests.training.run_worker import Fault
from tests.training.test_resume import assert_equal_runs, ledger, losses

Make = Callable[..., RunConfig]
SAMPLE = Path("mgh_ds/records/sample/held_out.jsonl")


def line(step: int, score: float | None) -> dict[str, Any]:
    """An evaluation that failed where there is no score."""
    figures = {"problem": "ink"} if score is None else {"scores": {"A": score, "B": 0.0}}
    return {"kind": "evaluation", "step": step, **figures}


def lines(*scores: float | None) -> list[dict[str, Any]]:
    """Evaluations after steps 0, 10, 20 and so on."""
    return [line(10 * number, score) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("every", "logged", "expected"), [(None, [], [0, 7]), (3, [], [0, 3, 6, 7]), (3, [0, 6], [3, 7])]
)
def test_due_are_the_first_the_last_and_multiples_that_are_not_logged(
    every: int | None, logged: list[int], expected: list[int]
) -> None:
    known = [line(step, None) for step in logged]
    assert [step for step in range(8) if is_due(step, known, every, last_step=7)] == expected


@pytest.mark.parametrize(
    ("scores", "best", "exhausted_at"),
    [
        ([], None, []),
        ([0.9], None, []),  # before training
        ([0.9, 0.1], 10, []),
        ([0.9, 0.1, 0.3, 0.2], 20, [1]),
        ([0.9, 0.3, 0.3, 0.2], 10, [1, 2]),  # the first of equals
        ([0.9, 0.3, None, 0.2], 10, [1]),  # a failed one counts for nothing
        ([0.9, None, None, None], None, []),
        ([0.9, 0.3, 0.2, 0.4], 30, []),
    ],
)
def test_best_and_patience_are_functions_of_the_log(
    scores: list[float | None], best: int | None, exhausted_at: list[int]
) -> None:
    known = lines(*scores)
    assert best_step(known, "A") == best
    assert [p for p in (1, 2, 3) if is_exhausted(known, "A", p)] == exhausted_at
    assert best_step(known, None) is None
    assert not is_exhausted(known, "A", None)
    assert best_step(known, "C") is None, "a task that was not scored then"


def test_retrieval_that_falls_below_its_start_is_named() -> None:
    def line(step: int, **scores: float) -> dict[str, Any]:
        metrics = {"SciFact": "ndcg_at_10", "STS17": "cosine_spearman"}
        return {"step": step, "scores": scores, "metrics": {name: metrics[name] for name in scores}}

    start = line(0, SciFact=0.6057, STS17=0.8)
    assert fallen([start], line(5, SciFact=0.567, STS17=0.7)) == [
        "SciFact is 56.70 after step 5, below its 60.57 before training"
    ]
    assert fallen([start, line(5, SciFact=0.7)], line(9, SciFact=0.6057)) == []
    assert fallen([], start) == fallen([line(5, SciFact=0.7)], line(9, SciFact=0.6)) == []
    assert fallen([{"step": 0, "problem": "none"}], line(5, SciFact=0.1)) == []
    assert fallen([start], {"step": 5, "problem": "the ink has dried up"}) == []


def test_a_metric_is_a_task_the_mean_or_a_level() -> None:
    found = {"scores": {"A": 0.2, "B": 0.6}, "levels": {"4": {"accuracy": 0.9, "margin": 0.1, "count": 3}}}
    values = [value_of(found, metric) for metric in ("A", "mean", "levels.4", "levels.1", "C")]
    assert values == [0.2, pytest.approx(0.4), 0.9, None, None]
    assert value_of({"problem": "ink"}, "mean") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 2, "metric": "A"}, "patience needs every"),
        ({"patience": 2}, "patience needs every and metric"),
        ({"data_dir": "data", "languages": ["deu"]}, "local folders hold the English subsets"),
        ({"tasks": ["STS17", "STS17"]}, "names one twice"),
        ({"every": 0}, "every must be above 0"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MghError, match=message):
        EvaluationConfig(**settings)


def test_what_needs_scores_is_refused_without_anything_to_score(tiny_run: Make) -> None:
    for settings in ({"every": 2}, {"metric": "STS17"}):
        with pytest.raises(MghError, match=r"needs something to score: name records in data\.held_out"):
            tiny_run().replace(evaluation=EvaluationConfig(**settings))


def test_vectors_are_the_same_bits_for_every_number_of_ranks(tiny_run: Make, tmp_path: Path) -> None:
    """And an error, of whichever rank, is rank 0's and leaves nobody waiting."""
    for world_size in (1, 2, 3):
        outputs = run_ranks(world_size, evaluation_worker.save_shared_vectors, tiny_run(), tmp_path)
        assert ["divided" in output for output in outputs] == [True] + [False] * (world_size - 1)
    first, *others = [np.load(tmp_path / f"{world_size}.npy") for world_size in (1, 2, 3)]
    for other in others:
        np.testing.assert_array_equal(first, other)


def scored(config: RunConfig, tmp_path: Path, **settings: Any) -> RunConfig:
    """The run with a few held-out records of either kind, and tasks whose data lie in a folder."""
    write_data(tmp_path / "data")
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(SAMPLE.open(encoding="utf-8").readlines()[::20]), encoding="utf-8")
    evaluation = {"tasks": ["STS17", "SciFact"], "data_dir": str(tmp_path / "data"), "batch_size": 8}
    return config.replace(
        data=config.data.replace(held_out=str(held_out)), evaluation=EvaluationConfig(**evaluation | settings)
    )


def logged(config: RunConfig) -> list[dict[str, Any]]:
    """The evaluations without how long they took."""
    return [
        {key: value for key, value in each.items() if key != "seconds"}
        for each in evaluation_lines(RunFolder(config.path))
    ]


def retrieval_of(run: Path) -> dict[str, Any]:
    """What a run keeps of retrieval by label: the documents found, and their token weights."""
    weights = files.read_json(run / "retrieved_weights.json")
    return {
        label: (
            files.read_json(run / "evaluation" / f"{label}.json")["retrieved"],
            [entry["tokens"] + entry["weights"] for entry in weights if entry["label"] == label],
        )
        for label in dict.fromkeys(entry["label"] for entry in weights)
    }


def kept(config: RunConfig) -> list[str]:
    return sorted(path.name for path in (config.path / "checkpoints").glob("step-*"))


def test_scores_are_the_same_for_every_number_of_ranks_and_training_without_them(
    tiny_run: Make, tmp_path: Path
) -> None:
    """The trained weights are one rank's; 1, 2 and 3 ranks go on from them, the last evaluation first."""
    plain = tiny_run(steps=3, checkpoint_every=100)
    base = scored(plain, tmp_path, every=2, metric="levels.4").replace(name="base")
    run_ranks(1, run_worker.train, plain)
    ask = Fault("forward", step=2, rank=0, action="terminate")
    codes, outputs = start_ranks(1, run_worker.train, base, ask, timeout=100)
    assert codes == [ExitCode.STOPPED], outputs
    assert [each["step"] for each in logged(base)] == [0, 2], "a stop comes before an evaluation"
    assert_equal_runs(base, plain)

    results = []
    for world_size in (1, 2, 3):
        config = base.replace(name=f"on-{world_size}")
        shutil.copytree(base.path, config.path, ignore=shutil.ignore_patterns(".lock"))
        run_ranks(world_size, run_worker.train, config)
        results.append(logged(config))
        assert [path.stem for path in sorted((config.path / "evaluation").iterdir())] == [
            "after",
            "before",
            "step-000002",
        ]
    assert results[0] == results[1] == results[2]
    after = results[0][-1]
    assert (after["step"], after["label"]) == (3, "after")
    assert set(after["scores"]) == {"HeldOutRetrieval", "HeldOutReranking", "HeldOutSTS", "STS17", "SciFact"}
    assert after["metrics"]["SciFact"] == "ndcg_at_10"
    assert (after["metric"], after["value"]) == ("levels.4", after["levels"]["4"]["accuracy"])
    assert results[0][0]["levels"] != after["levels"], "training changed something"
    found = [retrieval_of(base.path.with_name(f"on-{world_size}")) for world_size in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert found[0]["before"] == retrieval_of(base.path)["before"]
    assert found[0]["after"] != found[0]["before"]
    labels = [each["label"] for each in files.read_json(config.path / "token_weights.json")]
    assert labels == ["before"] * (len(labels) // 2) + ["after"] * (len(labels) // 2)


def test_killed_around_evaluations_and_best_checkpoints_equals_never_killed(tiny_run: Make) -> None:
    """Scores that are best after steps 1, 2 and 4. Killed within an evaluation, between its line and the
    checkpoint that it asks for, while that is written, and before the one that was best goes."""
    scores = {"before": 0.9, "after": 0.6} | {f"step-00000{s}": x for s, x in enumerate([0, 3, 6, 5, 8, 7])}
    config = tiny_run(checkpoint_every=3, keep_checkpoints=1)
    evaluation = EvaluationConfig(every=1, metric="Made", tasks=["Made"])
    whole, killed = (config.replace(name=name, evaluation=evaluation) for name in ("whole", "killed"))
    run_ranks(2, evaluation_worker.train_scripted, whole, scores)
    assert [each["value"] for each in logged(whole)] == [0.9, 3, 6, 5, 8, 7, 0.6]
    assert kept(whole) == ["step-000004", "step-000006"], "the newest and the best"

    faults = [
        ("encode", 0, 1, []),
        ("copy", 1, 0, ["step-000001"]),
        ("commit", 3, 0, ["step-000002", "step-000003"]),
        ("prune", 3, 0, ["step-000002", "step-000003", "step-000004"]),
        ("encode", 4, 1, ["step-000002", "step-000003", "step-000004"]),
    ]
    for phase, step, own, left in faults:
        fault = Fault(phase, step, own)
        with Ranks(2, evaluation_worker.train_scripted, killed, scores, fault) as ranks:
            codes = ranks.wait_for_the_first(timeout=100)
            assert codes[own] == -9, (phase, ranks.outputs())
        assert kept(killed) == left, phase
    run_ranks(2, evaluation_worker.train_scripted, killed, scores)
    assert_equal_runs(killed, whole)
    assert logged(killed) == logged(whole)
    assert kept(killed) == kept(whole)


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory, short_records: Path) -> tuple[Path, list[str], str]:
    """A run of all of `mgh-ds train` on two ranks that ends early, best after step 2, with an evaluation that
    fails; the words that started it, and what it printed."""
    folder = tmp_path_factory.mktemp("early")
    config = RunConfig(
        name="early",
        folder=str(folder),
        model={"name_or_path": "tiny-random/mistral", "max_length": 96, "lora": {"rank": 4}},
        data=DataConfig(train=[str(short_records)]),
        training={
            "steps": 9,
            "global_batch": 8,
            "micro_batch": 2,
            "checkpoint_every": 4,
            "keep_checkpoints": 1,
        },
        curriculum={"homogeneous": False},
        evaluation={"every": 1, "tasks": ["Made"], "metric": "mean", "patience": 2},
    )
    (folder / "recipe.yaml").write_text(dump_config(config))
    words = ["--config", str(folder / "recipe.yaml")]
    codes, outputs = start_ranks(2, evaluation_worker.whole_run, words, EARLY, timeout=150)
    assert codes == [ExitCode.SCORES_MISSING] * 2, outputs
    return folder / "early", words, outputs[0]


EARLY = {"before": 0.125, "step-000001": 0.25, "step-000002": 0.75, "step-000004": 0.5, "step-000005": 0.625}


def test_a_failed_evaluation_is_logged_and_the_run_goes_on(early: tuple[Path, list[str], str]) -> None:
    run, _, output = early
    failed = evaluation_lines(RunFolder(run))[3]
    assert (failed["step"], failed["problem"]) == (3, "ValueError: the ink has dried up")
    warning = "warning: the evaluation after step 3 failed"
    assert f"{warning}, and the run goes on: ValueError: the ink has dried up" in output
    assert f"{warning}: ValueError: the ink has dried up" in output, "again at the end"
    assert (
        "The evaluation after step 3 failed: ValueError: the ink has dried up"
        in (run / "report.html").read_text()
    )


def test_patience_ends_a_run_as_finished(early: tuple[Path, list[str], str]) -> None:
    run, words, output = early
    assert "ended early, after 5 of 9 steps: evaluation.metric mean was best after step 2" in output
    assert files.read_json(run / "run.json")["steps"] == 5
    after = files.read_json(run / "evaluation" / "after.json")
    assert (after["label"], after["tasks"]["Made"]["score"]) == ("after", 0.625)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000002", "step-000005"]
    before = (run / "ledger.jsonl").read_text(), evaluation_lines(RunFolder(run))
    codes, outputs = start_ranks(1, evaluation_worker.whole_run, words, EARLY, timeout=100)
    assert codes == [ExitCode.SCORES_MISSING], "a failed evaluation is not tried again"
    assert "ended early, after 5 of 9 steps" in outputs[0]
    assert ((run / "ledger.jsonl").read_text(), evaluation_lines(RunFolder(run))) == before


def test_the_best_checkpoint_is_exported(
    early: tuple[Path, list[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, output = early
    assert "exported is the best checkpoint by mean, of step 2" in output
    card = (run / "export" / "README.md").read_text()
    assert "for 2 of 9 steps (the best checkpoint by mean, of step 2)" in card
    assert "| Made, accuracy | 12.50 | 75.00 | +62.50 |" in card

    def export(*words: str) -> str:
        cli(["export", str(run), str(tmp_path / "".join(["to", *words])), *words])
        return capsys.readouterr().out

    def refusal(*words: str) -> str:
        with pytest.raises(SystemExit) as error:
            export(*words)
        return str(error.value)

    assert "the best checkpoint by mean, of step 2" in export()
    assert "the newest checkpoint, of step 5" in export("--checkpoint", "newest")
    assert "the checkpoint of step 2" in export("--checkpoint", "2")
    folders = [tmp_path / name for name in ("to", "to--checkpointnewest", "to--checkpoint2")]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[2] != weights[1]
    assert "| Made, accuracy | 12.50 | 62.50 | +50.00 |" in (folders[1] / "README.md").read_text()
    assert "has no checkpoint of step 3; it has those of 2, 5" in refusal("--checkpoint", "3")
    assert "must be best, newest or the number of a step" in refusal("--checkpoint", "bset")


def test_a_fresh_start_keeps_nothing_of_an_earlier_attempt(tiny_run: Make) -> None:
    """Without a checkpoint the earlier recipe may have been another."""
    config = tiny_run(steps=3).replace(evaluation=EvaluationConfig(tasks=["Made"]))
    folder = RunFolder(config.path)
    folder.metrics.append({"kind": "evaluation", "step": 0, "label": "before", "scores": {"Other": 1.0}})
    files.write_json(folder.evaluation("step-000050"), {})
    for name in ("token_weights.json", "retrieved_weights.json"):
        files.write_json(config.path / name, [])
    run_ranks(1, evaluation_worker.train_scripted, config, {"before": 0.5, "after": 0.6})
    assert [each["scores"] for each in logged(config)] == [{"Made": 0.5}, {"Made": 0.6}]
    assert sorted(path.stem for path in (config.path / "evaluation").iterdir()) == ["after", "before"]
    assert not list(config.path.glob("*_weights.json"))
    assert len(losses(config)) == len(ledger(config)) == 3


def test_what_is_unknown_or_missing_is_refused_before_a_model_is_loaded(
    tiny_run: Make, tmp_path: Path
) -> None:
    base = scored(tiny_run(), tmp_path)
    shutil.rmtree(tmp_path / "data" / "SciFact" / "qrels")
    cases = [
        ({"metric": "HeldOutRetreival", "tasks": []}, "; did you mean `HeldOutRetrieval`?"),
        ({"metric": "levels.5", "tasks": []}, "levels.3, levels.4; did you mean `levels."),
        ({"tasks": ["STS71"]}, "task STS71 has no local layout; did you mean `STS17`?"),
        ({"tasks": ["SciFact"]}, "qrels/test.tsv does not exist"),
        ({"tasks": ["SciFacts"], "data_dir": None}, "'SciFacts' not found. Did you mean: 'SciFact'?"),
        ({"tasks": ["NFCorpus"], "data_dir": None}, "cannot load NFCorpus from the hub"),
        ({"data_dir": str(tmp_path / "nowhere")}, "nowhere is not a folder"),
    ]
    configs = [
        base.replace(name=str(number), evaluation=base.evaluation.replace(**settings))
        for number, (settings, _) in enumerate(cases)
    ]
    (output,) = run_ranks(1, evaluation_worker.print_refusals, configs)
    refusals = [each for each in output.splitlines() if each.startswith("refused: ")]
    assert len(refusals) == len(cases), output
    for found, (_, expected) in zip(refusals, cases, strict=True):
        assert expected in found


def test_a_best_checkpoint_that_is_damaged_does_not_keep_the_run_from_its_export(
    early: tuple[Path, list[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "early"
    shutil.copytree(early[0], run)
    weights = run / "checkpoints" / "step-000002" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    cli(["export", str(run), str(tmp_path / "to")])
    assert "cannot be taken, so the newest is" in capsys.readouterr().out
    assert "for 5 of 9 steps" in (tmp_path / "to" / "README.md").read_text()
    with pytest.raises(SystemExit, match="step-000002"):
        cli(["export", str(run), str(tmp_path / "too"), "--checkpoint", "best"])


def test_a_run_that_logged_no_evaluations_has_those_of_before_and_after(
    early: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "early")
    shutil.copytree(early[0], folder.path)
    kept_lines = [each for each in folder.metrics.entries() if each["kind"] != "evaluation"]
    folder.metrics.path.unlink()
    for entry in kept_lines:
        folder.metrics.append(entry)
    before, after = scores_of(folder, 0, 5), scores_of(folder, 5, 5)
    assert before is not None
    assert after is not None
    assert (before["tasks"]["Made"]["score"], after["tasks"]["Made"]["score"]) == (0.125, 0.625)
    assert scores_of(folder, 4, 5) is not None  # its file stands
    assert scores_of(folder, 3, 5) is None


def test_the_report_says_which_step_is_exported(early: tuple[Path, list[str], str]) -> None:
    page = (early[0] / "report.html").read_text()
    assert "Exported is the model of step 2, the best by mean." in page
    assert "Best by mean: step 2, with 75.00." in page


def test_data_that_are_others_now_are_refused(
    early: tuple[Path, list[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded; of what a run will not go on from nothing counts."""
    run, words, _ = early
    config = load_config(RunConfig, words)
    assert [each.get("data") for each in evaluation_lines(RunFolder(run))][:2] == [
        {"Made": evaluation_worker.DATA}
    ] * 2
    monkeypatch.setattr(trainer, "build_run_model", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(RunFolder, "hold", lambda _: None)
    with pytest.raises(ZeroDivisionError):
        trainer.Trainer(config, RunFolder(run), evaluation_worker.Scripted({}))
    monkeypatch.setattr(evaluation_worker, "DATA", {"path": "made", "revision": "2"})
    with pytest.raises(MghError, match="after step 0 scored Made on other data; differing: revision: 1 → 2"):
        trainer.Trainer(config, RunFolder(run), evaluation_worker.Scripted({}))


def test_which_lines_are_held_against_the_data() -> None:
    known = [line(0, 0.1), line(10, 0.2) | {"data": {"A": {"revision": "1"}}}]
    check_data(known, 10, {"A": {"revision": "1"}, "B": {"revision": "5"}})
    check_data(known, 9, {"A": {"revision": "2"}})  # the line after is about to go
    check_data(known, 10, {"B": {"revision": "2"}})  # A is not scored any more
    with pytest.raises(MghError, match=r"after step 10 scored A on other data.*take A out"):
        check_data(known, 10, {"A": {"revision": "2"}})


def test_a_stop_while_the_untrained_model_is_scored_keeps_the_scores(tiny_run: Make) -> None:
    scores = {"before": 0.5, "after": 0.6}
    config = tiny_run(steps=3).replace(evaluation=EvaluationConfig(tasks=["Made"]))
    fault = Fault("encode", 0, 0, action="terminate")
    codes, outputs = start_ranks(2, evaluation_worker.train_scripted, config, scores, fault, timeout=100)
    assert codes == [ExitCode.STOPPED] * 2, outputs
    assert kept(config) == ["step-000000"]
    (first,) = evaluation_lines(RunFolder(config.path))
    run_ranks(2, evaluation_worker.train_scripted, config, scores)
    lines_now = evaluation_lines(RunFolder(config.path))
    assert [each["step"] for each in lines_now] == [0, 3]
    assert lines_now[0] == first, "seconds and all: it was not made again"
