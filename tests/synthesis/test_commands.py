"""The verbs' own work: what they print and refuse, merging under other filters, in part, and without what the
audit found."""

import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgh_ds import cli
from mgh_ds.audit.agreement import labelled_set
from mgh_ds.audit.false_negatives import JUDGE, KAPPA
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation import judges
from mgh_ds.records.store import Store
from mgh_ds.synthesis import commands, progress
from mgh_ds.synthesis.commands import audit_command, merge_command, run_command, status_command
from mgh_ds.synthesis.engines.port import Completion, Request
from mgh_ds.synthesis.engines.scripted import ScriptedEngine
from mgh_ds.synthesis.plan import SynthesisPlan
from mgh_ds.synthesis.progress import WorkerProgress
from tests.synthesis.kill_worker import work
from tests.synthesis.recipes import content, small_plan

ALL = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SynthesisPlan:
    """A plan whose work is done; each test merges it anew."""
    plan = small_plan(tmp_path_factory.mktemp("finished") / "plan")
    work(plan.folder, ALL)
    return plan


def frozen(plan: SynthesisPlan) -> dict[str, bytes]:
    """Everything but what a merge or an audit makes."""
    found = content(plan.folder)
    return {name: data for name, data in found.items() if not name.startswith(("merged/", "audit/"))}


def units(plan: SynthesisPlan) -> list[dict[str, Any]]:
    return pq.read_table(plan.folder / "merged" / "units.parquet").to_pylist()


def accepted(plan: SynthesisPlan) -> set[str]:
    """Ids of the accepted units, which are the data set's."""
    ids = {row["unit_id"] for row in units(plan) if not row["reason"]}
    store = Store.open(plan.folder / "merged")
    assert {record.id for record in store} == ids
    return ids


def test_a_merge_under_other_filters_judges_anew_and_leaves_the_plan(finished: SynthesisPlan) -> None:
    before = frozen(finished)
    merge_command(finished.folder)
    first, merged = accepted(finished), content(finished.folder / "merged")
    merge_command(finished.folder, settings=["--filters.short_chars", "[4, 220]"])
    assert accepted(finished) < first
    reasons = Counter(row["reason"] for row in units(finished))
    assert reasons["too_long:positive"] > 0
    assert sum(reasons.values()) == len(units(finished))
    assert frozen(finished) == before
    merge_command(finished.folder)
    assert content(finished.folder / "merged") == merged


def test_wider_filters_at_a_merge_accept_what_was_refused(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan", "--filters.long_chars", "[250, 12000]", "--samples.max_rounds", "2")
    work(plan.folder, ALL)
    merge_command(plan.folder)
    narrow = accepted(plan)
    assert any(row["reason"].startswith("too_short") for row in units(plan))
    merge_command(plan.folder, settings=["--filters.long_chars", "[20, 12000]"])
    assert accepted(plan) > narrow
    assert not any(row["reason"].startswith("too_short") for row in units(plan))


def test_only_filters_may_change_at_a_merge(finished: SynthesisPlan) -> None:
    with pytest.raises(MghError, match=r"samples\.budget.*frozen"):
        merge_command(finished.folder, settings=["--samples.budget.samples", "3"])


def test_partial_merges_what_is_there_of_an_unfinished_plan(
    tmp_path: Path, finished: SynthesisPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = small_plan(tmp_path / "plan")
    run_command(plan.folder, [0, 2, 0])
    shown = capsys.readouterr().out
    assert "2 of 4 shards are done" in shown
    assert f"mgh-ds synth run {plan.folder} --all" in shown
    with pytest.raises(MghError, match=r"2 of 4 shards are not done: 1, 3\..*--partial"):
        merge_command(plan.folder)
    assert not (plan.folder / "merged").exists()
    merge_command(plan.folder, partial=True)
    assert {row["shard"] for row in units(plan)} == {0, 2}
    some = accepted(plan)
    run_command(plan.folder, None)
    assert f"done. next: mgh-ds synth merge {plan.folder}" in capsys.readouterr().out
    merge_command(plan.folder)
    assert accepted(plan) > some
    merge_command(finished.folder)
    assert content(plan.folder / "merged") == content(finished.folder / "merged")


def write_decisions(
    plan: SynthesisPlan,
    false_negatives: Sequence[str] = (),
    judge: str = "",
    kappa: str = "0.6",
    **near_duplicate_of: str,
) -> None:
    """An audit that found these near duplicates and false negatives, and nothing else."""
    ids = sorted(accepted(plan))
    columns: dict[str, Any] = {"id": ids, "near_duplicate_of": [near_duplicate_of.get(one) for one in ids]}
    columns |= {
        name: [False] * len(ids) for name in ("wrong_language", *(f"false_negative_{n}" for n in (1, 2)))
    }
    columns |= {"false_negative_3": [None] * len(ids), "ordered": [True] * len(ids)}
    columns["false_negative_4"] = [one in false_negatives for one in ids]
    metadata = {JUDGE: judge.encode()} | ({KAPPA: kappa.encode()} if kappa else {})
    table = pa.table(columns).replace_schema_metadata(metadata if judge else None)
    (plan.folder / "audit").mkdir(exist_ok=True)
    pq.write_table(table, plan.folder / "audit" / "decisions.parquet")


def test_what_the_audit_found_is_left_out_with_its_reason(
    finished: SynthesisPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_command(finished.folder)
    before = accepted(finished)
    first, *others = sorted(before)[:4]
    write_decisions(finished, **dict.fromkeys(others, first))
    merge_command(finished.folder, ["near_duplicate"])
    assert accepted(finished) == before - set(others)
    reasons = {row["unit_id"]: row["reason"] for row in units(finished)}
    assert {reasons[one] for one in others} == {"near_duplicate"}
    assert "refused 3: near_duplicate" in capsys.readouterr().out


def test_false_negatives_are_dropped_by_a_judges_verdict_alone(finished: SynthesisPlan) -> None:
    merge_command(finished.folder)
    before = accepted(finished)
    found = sorted(before)[:5]
    write_decisions(finished, found)
    with pytest.raises(MghError, match=r"no judge was asked.*mgh-ds synth judge.*--cross-encoder"):
        merge_command(finished.folder, ["false_negative"])
    assert accepted(finished) == before
    write_decisions(finished, found, judge="a wise one")
    merge_command(finished.folder, ["false_negative"])
    assert accepted(finished) == before - set(found)
    merge_command(finished.folder)


@pytest.mark.parametrize(
    ("kappa", "said"),
    [
        ("0.59", r"kappa 0\.59, below 0\.6.*no base.*--drop-at-most 0\.2"),
        ("null", r"kappa undefined, below 0\.6.*no base.*--drop-at-most 0\.2"),
        ("", r"does not say how far its judge, a fool, agrees.*synth audit .* again.*--drop-at-most 0\.2"),
    ],
)
def test_a_judge_that_agrees_too_little_drops_nothing_unless_the_user_says_so(
    kappa: str, said: str, finished: SynthesisPlan
) -> None:
    merge_command(finished.folder)
    before = accepted(finished)
    found = sorted(before)[:5]
    write_decisions(finished, found, "a fool", kappa, **{found[0]: found[1]})
    with pytest.raises(MghError, match=said):
        merge_command(finished.folder, ["false_negative", "near_duplicate"])
    assert accepted(finished) == before
    merge_command(finished.folder, ["near_duplicate"])
    assert accepted(finished) == before - set(found[:1]), "other findings do not hang on a judge"
    merge_command(finished.folder, ["false_negative"], drop_at_most=0.2)
    assert accepted(finished) == before - set(found)
    merge_command(finished.folder)


def test_dropping_many_records_takes_a_flag(finished: SynthesisPlan) -> None:
    merge_command(finished.folder)
    before = sorted(accepted(finished))
    half = len(before) // 2
    write_decisions(finished, before[: half - 3], "a", **dict.fromkeys(before[half - 3 : half], before[-1]))
    both = ["false_negative", "near_duplicate"]
    expected = (
        rf"{half} of {len(before)} records \(\d\d\.\d %: false_negative {half - 3}, near_duplicate 3\), more"
    )
    with pytest.raises(MghError, match=rf"{expected} than 20 %.*audit\.html.*--drop-at-most 0\.5") as refused:
        merge_command(finished.folder, both)
    assert sorted(accepted(finished)) == before
    [share] = re.findall(r"--drop-at-most (\S+)", str(refused.value))
    cli.main(["synth", "merge", str(finished.folder), "--drop", *both, "--drop-at-most", share])
    assert sorted(accepted(finished)) == before[half:]
    with pytest.raises(MghError, match=r"a share between 0 and 1 \(found 20\)"):
        merge_command(finished.folder, both, drop_at_most=20)
    merge_command(finished.folder)


def test_a_judge_is_asked_shown_and_acted_upon(
    finished: SynthesisPlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_command(finished.folder)
    first, *others = Store.open(finished.folder / "merged")
    right = {one.negative for one in labelled_set() if one.false_negative} | {first.negatives[0].text}

    def answer(_engine: ScriptedEngine, request: Request) -> Completion:
        found = any(f"<candidate>\n{text}\n<" in request.messages[0]["content"] for text in right)
        return Completion(request.unit_id, json.dumps({"reason": "so", "right_answer": found}), "stop", 9, 3)

    monkeypatch.setattr(ScriptedEngine, "_answer", answer)
    engine = ["--engine.kind", "scripted", "--engine.model", "oracle"]
    cli.main(["synth", "judge", str(finished.folder), "--levels", "4", *engine])
    shown = capsys.readouterr().out
    calls = len(others) + 1 + len(labelled_set())
    assert f"1 of {len(others) + 1} negatives are right answers, says oracle" in shown
    assert "agreement with 58 of 58 labelled by hand: accuracy 1.00" in shown
    assert "Cohen's kappa 1.00" in shown
    assert f"cost: {calls} calls, tokens {9 * calls:,} in, {3 * calls} out" in shown
    monkeypatch.setattr("mgh_ds.audit.run.shortcut", lambda *_: {"too_few": "it takes long"})
    audit_command(
        finished.folder, lambda texts: np.eye(8, dtype=np.float32)[[len(t) % 8 for t in texts]], "e"
    )
    figures = json.loads((finished.folder / "audit" / "audit.json").read_text())["false_negatives"]
    assert list(figures["by_level"]) == ["4"]
    assert (figures["found"], figures["agreement"]["kappa"]) == (1, 1)
    merge_command(finished.folder, ["false_negative"])
    assert accepted(finished) == {record.id for record in others}
    merge_command(finished.folder)


def test_a_judge_needs_a_merge_and_an_engine(finished: SynthesisPlan, tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan")
    with pytest.raises(SystemExit, match=r"no merged records.*mgh-ds synth merge"):
        cli.main(["synth", "judge", str(plan.folder), "--engine.kind", "scripted", "--engine.model", "m"])
    merge_command(finished.folder)
    with pytest.raises(SystemExit, match=r"engine is missing"):
        cli.main(["synth", "judge", str(finished.folder)])


@pytest.mark.parametrize("sample", ["-5", "0"])
def test_a_sample_of_nothing_is_refused_before_anything_is_said(
    sample: str, finished: SynthesisPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_command(finished.folder)
    capsys.readouterr()
    engine = ["--engine.kind", "scripted", "--engine.model", "oracle"]
    with pytest.raises(SystemExit, match=rf"at least one record \(found {sample}\)"):
        cli.main(["synth", "judge", str(finished.folder), "--sample", sample, *engine])
    assert capsys.readouterr().out == ""


def test_nothing_is_dropped_without_an_audit(finished: SynthesisPlan) -> None:
    shutil.rmtree(finished.folder / "audit", ignore_errors=True)
    with pytest.raises(MghError, match=r"audit.*mgh-ds synth audit"):
        merge_command(finished.folder, ["near_duplicate"])


def test_a_merge_before_stage_1_is_done_says_to_run(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "a plan")
    with pytest.raises(MghError, match=r"stage 1 .* is not done.*mgh-ds synth run '.*/a plan' --all"):
        merge_command(plan.folder, partial=True)


def test_an_audit_of_nothing_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(tmp_path / "plan")
    monkeypatch.delattr(judges.Encoder, "from_pretrained")
    with pytest.raises(SystemExit, match=r"no merged records.*mgh-ds synth merge"):
        cli.main(["synth", "audit", str(plan.folder)])


def test_a_shard_named_twice_is_worked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path / "plan")
    asked: list[list[int]] = []
    monkeypatch.setattr(commands, "run", lambda _plan, shards, _progress: asked.append(list(shards)) or [])
    cli.main(["synth", "run", str(plan.folder), "--shard", "3", "--shard", "1", "--shard", "3"])
    assert asked == [[3, 1]]


def test_shards_that_ended_short_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = small_plan(tmp_path / "plan", "--samples.max_rounds", "1", "--engine.scripted.invalid", "0.4")
    run_command(plan.folder, None)
    shown = capsys.readouterr().out
    assert "4 of the shards ended short of their goal" in shown
    assert "done. next: mgh-ds synth merge" in shown


def test_ctrl_c_says_that_work_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> list[int]:
        raise KeyboardInterrupt

    plan = small_plan(tmp_path / "plan")
    monkeypatch.setattr(commands, "run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["synth", "run", str(plan.folder), "--all"])
    assert stopped.value.code == 130
    assert "stopped by Ctrl-C: what was finished is kept" in capsys.readouterr().err


def test_a_signal_that_was_swallowed_ends_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deaf(_plan: SynthesisPlan, _shards: list[int], shown: WorkerProgress) -> list[int]:
        with contextlib.suppress(BaseException):  # as a finaliser or C code does
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        shown.show(0)
        raise AssertionError("it went on")

    plan = small_plan(tmp_path / "plan")
    monkeypatch.setattr(commands, "run", deaf)
    with pytest.raises(SystemExit) as stopped:
        run_command(plan.folder, None)
    assert stopped.value.code == commands.STOPPED
    assert "stopped by SIGTERM: what was finished is kept" in capsys.readouterr().err


def test_the_progress_line_fits_the_terminal(
    finished: SynthesisPlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    shown = WorkerProgress(finished)
    shown.begin("samples", ALL)
    shown.show(0)
    line = capsys.readouterr().err
    shown.close()
    assert line == "\r\x1b[2K" + shown.line()[:39]
    assert len(shown.line()) > 39


def test_status_stands_odd_names_and_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = small_plan(tmp_path / "x[/b]")
    workers = plan.folder / "work" / "workers"
    workers.mkdir(parents=True)
    now = datetime.datetime.now(datetime.UTC)
    values = {"stage": "samples", "accepted": 3, "tokens_out_per_s": 5.0}
    for name, hours in {"fresh": 0, "quiet": 2, "old": 25}.items():
        time = (now - datetime.timedelta(hours=hours)).isoformat()
        (workers / f"{name}.json").write_text(json.dumps(values | {"worker": name, "time": time}))
    for number, text in enumerate(
        ["", "{", "[]", "null", "{}", '{"time": "noon"}', '{"time": "2026-01-01"}']
    ):
        (workers / f"broken-{number}.json").write_text(text)
    status_command(plan.folder)
    shown = capsys.readouterr().out
    assert "x[/b]" in shown.replace("\n", "")
    assert "worker fresh: at work" in shown
    assert "worker quiet: silent for" in shown
    assert shown.count("worker ") == 2
