"""Reading a run folder: what is there is checked, what is not there yet is None, what is broken is named."""

import json
import math

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.report.data import load_run


def test_a_whole_run_is_read(make_run):
    run = load_run(make_run())
    assert [step.step for step in run.steps] == list(range(1, 81))
    assert [(stage.name, stage.first, stage.last) for stage in run.stages] == [
        ("level 1", 1, 20),
        ("levels 2, 3", 21, 52),
        ("level 4", 53, 80),
    ]
    assert [checkpoint.step for checkpoint in run.checkpoints] == [20, 40, 60, 80]
    assert run.levels == ["1", "2", "3", "4"]
    assert run.before
    assert run.before.levels["4"].accuracy == pytest.approx(66 / 108)
    assert len(run.weighted_texts) == 6
    assert run.notes == []


def test_only_the_metrics_must_be_there(make_run):
    optional = (
        "config.yaml",
        "run.json",
        "evaluation/before.json",
        "evaluation/after.json",
        "token_weights.json",
    )
    run = load_run(make_run(*optional, name="bare"))
    assert run.name == "bare"
    assert (run.before, run.after, run.config, run.weighted_texts) == (None, None, None, [])


def test_a_folder_without_metrics_is_refused(make_run, tmp_path):
    with pytest.raises(MghError, match=r"metrics\.jsonl does not exist"):
        load_run(make_run("metrics.jsonl"))
    with pytest.raises(MghError, match="not a folder"):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize("torn", [b'{"kind": "step", "st', b'{"kind": "step", "stage_name": "\xc3'])
def test_a_torn_last_line_is_left_out_and_noted(make_run, torn):
    folder = make_run()
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    run = load_run(folder)
    assert len(run.steps) == 80
    assert "cut off" in run.notes[0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", r"line 3 is not valid JSON"),
        ('{"kind": "step", "step": 1, "stage": 0, "stage_name": "a"}', r"line 3: loss: Field required"),
        ('{"kind": "checkpoint", "step": 1, "seconds": "slow", "bytes": 1}', r"line 3: seconds: "),
        ('{"step": 1}', r'line 3 has no "kind"'),
        ("[1]", r'line 3 has no "kind"'),
    ],
)
def test_a_broken_line_is_named(make_run, line, complaint):
    folder = make_run()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[2] = line
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(MghError, match=complaint):
        load_run(folder)


def test_a_step_logged_twice_counts_as_logged_last(make_run):
    folder = make_run()
    again = {"kind": "step", "step": 41, "stage": 1, "stage_name": "levels 2, 3", "loss": 9.25}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    run = load_run(folder)
    assert len(run.steps) == 80
    assert run.steps[40].loss == 9.25


def test_what_was_not_measured_is_nan_and_an_unknown_kind_is_noted(make_run):
    folder = make_run()
    skipped = {
        "kind": "step",
        "step": 81,
        "stage": 2,
        "stage_name": "level 4",
        "loss": None,
        "grad_norm": math.nan,
    }
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(skipped) + "\n" + '{"kind": "weather"}\n')
    run = load_run(folder)
    assert math.isnan(run.steps[-1].loss)
    assert math.isnan(run.steps[-1].grad_norm)
    assert "weather" in run.notes[0]


def test_anchors_need_a_weight_for_each_token(make_run):
    folder = make_run()
    (folder / "token_weights.json").write_text(
        json.dumps([{"label": "before", "text": "a b", "tokens": ["a", "b"], "weights": [1.0]}])
    )
    with pytest.raises(MghError, match=r"token_weights\.json: 0: .*2 tokens but 1 weights"):
        load_run(folder)
