"""What a worker does when engines die or hang, models talk nonsense, disks fill up, parts are lost, and plans
change."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.common.files import HeldError
from mgh_ds.synthesis import plan as plans
from mgh_ds.synthesis import worker
from mgh_ds.synthesis.commands import STOPPED, merge_command, run_command, status_command
from mgh_ds.synthesis.config import ScriptedConfig
from mgh_ds.synthesis.engines.port import PROBE, Completion, EngineDied, Request
from mgh_ds.synthesis.engines.scripted import ScriptedEngine
from mgh_ds.synthesis.journal import Journal
from mgh_ds.synthesis.merge import merge
from mgh_ds.synthesis.plan import SynthesisPlan, open_plan
from mgh_ds.synthesis.prepare import Preparer
from mgh_ds.synthesis.shard_run import ShardRun
from mgh_ds.synthesis.status import read_status
from mgh_ds.synthesis.tasks import open_tasks
from mgh_ds.synthesis.units import make_unit, uniform
from tests.forkserver import SERVER
from tests.synthesis.kill_worker import Silent, work
from tests.synthesis.recipes import content, small_plan

ALL = [0, 1, 2, 3]


def units(plan: SynthesisPlan) -> list[dict[str, Any]]:
    return pq.read_table(plan.folder / "merged" / "units.parquet").to_pylist()


def samples_folder(plan: SynthesisPlan, shard: int) -> Path:
    return plan.shard_folder("samples", shard)


def test_a_run_reaches_its_budget_and_every_row_says_where_it_came_from(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, ALL)
    result = merge(plan)
    rows = units(plan)
    assert result.counts.accepted >= 160
    assert result.counts.units == len(rows) == len({row["unit_id"] for row in rows})
    assert [row["unit_id"] for row in rows] == sorted(row["unit_id"] for row in rows)
    assert {row["plan_hash"] for row in rows} == {plan.plan_hash}
    scope, tasks = open_tasks(plan)
    places = {task_id: place for place, task_id in enumerate(tasks)}
    first = [row["index"] * len(tasks) + places[row["task_id"]] for row in rows if row["round"] == 0]
    assert sorted(first) == list(range(160)), "together the shards take the stage's places from the first on"
    assert max(row["round"] for row in rows) >= 1, "a tenth of the answers is bad: there must be a top-up"
    refused = [row for row in rows if row["reason"]]
    assert refused
    assert all(row["text"] for row in refused), "rejected answers are kept"
    preparer = Preparer(plan, "samples", tasks)
    for row in rows[:20]:  # any unit can be rebuilt alone
        unit = preparer.prepare(make_unit(scope, "samples", row["task_id"], row["index"]))
        assert (unit.unit.unit_id, unit.prompt_hash) == (row["unit_id"], row["prompt_hash"])
        assert unit.slots == json.loads(row["slots"])


def test_a_token_budget_counts_what_it_says(tmp_path: Path) -> None:
    counted = {}
    for count_prompt in ("false", "true"):
        plan = small_plan(
            tmp_path / count_prompt,
            *("--samples.budget.samples", "null", "--samples.budget.tokens", "40000"),
            *("--samples.budget.count_prompt", count_prompt),
        )
        work(plan.folder, ALL)
        counts = merge(plan).counts
        counted[count_prompt] = counts
        reached = counts.accepted_tokens_out + (counts.accepted_tokens_in if count_prompt == "true" else 0)
        assert 40_000 <= reached < 60_000
    assert counted["false"].accepted > 2 * counted["true"].accepted


class Dying(ScriptedEngine):
    """Dies whenever a unit of `guilty` is submitted; notes which units were in flight at each death."""

    guilty: set[str]
    deaths: list[set[str]]

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests)
        in_flight = {request.unit_id for _, _, request in self._waiting}
        if in_flight & self.guilty:
            self.deaths.append(in_flight)
            raise EngineDied("a unit of the test killed it")


def guilty_units(plan: SynthesisPlan, share: float) -> set[str]:
    """Units that an undisturbed run of the plan has, drawn by their id."""
    work(plan.folder, ALL)
    merge(plan)
    return {row["unit_id"] for row in units(plan) if uniform(row["unit_id"], "guilt") < share}


def test_units_that_kill_the_engine_are_given_up_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guilty = guilty_units(small_plan(tmp_path / "before"), 0.03)
    assert len(guilty) >= 3
    monkeypatch.setattr(Dying, "guilty", guilty, raising=False)
    monkeypatch.setattr(Dying, "deaths", [], raising=False)
    monkeypatch.setattr(worker, "open_engine", lambda config, _log: Dying(config))
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, ALL)
    merge(plan)
    quarantined = {row["unit_id"] for row in units(plan) if row["finish_reason"] == "quarantined"}
    assert quarantined == guilty
    assert {row["attempts"] for row in units(plan) if row["unit_id"] in guilty} == {3}
    for unit in guilty:
        assert sum(unit in death for death in Dying.deaths) == 3
        assert {unit} in Dying.deaths, "it was alone when it was found guilty"


class DyingLater(Dying):
    """Dies a while after a guilty unit was submitted, when others have come in beside it, if they may."""

    due: float | None = None

    def submit(self, requests: Sequence[Request]) -> None:
        ScriptedEngine.submit(self, requests)
        if self.due is None and any(request.unit_id in self.guilty for request in requests):
            self.due = time.monotonic() + 0.03

    def poll(self, timeout_s: float) -> list[Completion]:
        if self.due is not None and time.monotonic() >= self.due:
            self.deaths.append({request.unit_id for _, _, request in self._waiting})
            raise EngineDied("a unit of the test killed it some time ago")
        guilty = [one for one in self._waiting if one[2].unit_id in self.guilty]
        self._waiting = [one for one in self._waiting if one[2].unit_id not in self.guilty]
        done = ScriptedEngine.poll(self, min(timeout_s, 0.005))
        self._waiting += guilty
        return done


def test_a_late_death_condemns_no_unit_that_came_in_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guilty = guilty_units(small_plan(tmp_path / "before", "--engine.scripted.delay_s", "0.002"), 0.03)
    monkeypatch.setattr(Dying, "guilty", guilty, raising=False)
    monkeypatch.setattr(Dying, "deaths", [], raising=False)
    monkeypatch.setattr(worker, "open_engine", lambda config, _log: DyingLater(config))
    plan = small_plan(tmp_path / "plan", "--engine.scripted.delay_s", "0.002")
    work(plan.folder, ALL)
    merge(plan)
    rows = units(plan)
    assert {row["unit_id"] for row in rows if row["finish_reason"] == "quarantined"} == guilty
    cleared = {row["attempts"] for row in rows if row["finish_reason"] != "quarantined"}
    assert min(cleared) == 1
    assert max(cleared) > 1, "who survived a death was tried more than once, and says so"


def test_shards_of_nothing_but_guilty_units_end_too(tmp_path: Path) -> None:
    plan = small_plan(
        tmp_path / "plan", "--shards", "12", "--chunk", "1", "--engine.scripted.crash", "0.3",
        "--samples.budget.samples", "12", "--seed", "5",
    )  # fmt: skip
    for _ in range(20):  # ten deaths in a row end a run, and the next one goes on
        with contextlib.suppress(MghError):
            work(plan.folder, list(range(12)))
            break
    merge(plan)
    found = units(plan)
    guilty = {row["unit_id"] for row in found if uniform(row["unit_id"], "crash") < 0.3}
    assert guilty
    assert {row["unit_id"] for row in found if row["finish_reason"] == "quarantined"} == guilty


def test_crashes_are_remembered_across_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guilty = {min(guilty_units(small_plan(tmp_path / "before"), 0.1))}
    monkeypatch.setattr(Dying, "guilty", guilty, raising=False)
    monkeypatch.setattr(Dying, "deaths", [], raising=False)
    monkeypatch.setattr(worker, "open_engine", lambda config, _log: Dying(config))
    plan = small_plan(tmp_path / "plan")
    handle_death = worker.StageRun._handle_death

    def handle_death_and_stop(self: worker.StageRun, died: EngineDied) -> None:
        handle_death(self, died)
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.StageRun, "_handle_death", handle_death_and_stop)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            work(plan.folder, ALL)
    work(plan.folder, ALL)
    merge(plan)
    assert len(Dying.deaths) == 3
    assert {row["unit_id"] for row in units(plan) if row["finish_reason"] == "quarantined"} == guilty


def test_an_engine_that_falls_silent_is_ended_by_the_watchdog(tmp_path: Path) -> None:
    options = ("--engine.scripted.hang", "0.01", "--engine.watchdog_s", "0.05", "--tasks.calls", "20")
    plan = small_plan(tmp_path / "plan", *options, "--seed", "1")  # three units of this one are silent
    work(plan.folder, ALL)
    merge(plan)
    found = units(plan)
    silent = {row["unit_id"] for row in found if uniform(row["unit_id"], "hang") < 0.01}
    assert silent
    assert {row["unit_id"] for row in found if row["finish_reason"] == "quarantined"} == silent
    assert all("no sign of life" in row["error"] for row in found if row["finish_reason"] == "quarantined")


def test_an_engine_that_always_dies_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path / "plan")

    class Broken(ScriptedEngine):
        def submit(self, requests: Sequence[Request]) -> None:
            super().submit(requests)
            if not requests[0].unit_id.startswith(PROBE):
                raise EngineDied("out of memory")

    monkeypatch.setattr(worker, "open_engine", lambda config, _log: Broken(config))
    with pytest.raises(MghError, match=r"died 10 times without finishing anything.*out of memory"):
        work(plan.folder, ALL)
    monkeypatch.undo()
    work(plan.folder, ALL)
    merge(plan)
    quarantined = [row for row in units(plan) if row["finish_reason"] == "quarantined"]
    assert len(quarantined) <= 8, "a broken engine does not condemn the units"


def test_an_engine_that_never_starts_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stillborn(ScriptedEngine):
        def poll(self, timeout_s: float) -> list[Completion]:
            raise EngineDied(f"no GPU within {timeout_s} s")

    monkeypatch.setattr(worker, "open_engine", lambda config, _log: Stillborn(config))
    with pytest.raises(MghError, match=r"died 4 times before its first answer: no GPU within"):
        work(small_plan(tmp_path / "plan").folder, ALL)


class DyingOfPrompts(ScriptedEngine):
    """Dies of prompts, whether a unit's or a probe's: `late` when everything else in flight is answered."""

    guilty: set[str]
    late = False
    deaths = 0

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests)
        if not self.late:
            self._die_of(self._waiting)

    def poll(self, timeout_s: float) -> list[Completion]:
        deadly = [one for one in self._waiting if str(one[2].messages) in self.guilty]
        if deadly == self._waiting:
            self._die_of(deadly)
        self._waiting = [one for one in self._waiting if one not in deadly]
        done = super().poll(timeout_s)
        self._waiting += deadly
        return done

    def _die_of(self, waiting: Sequence[tuple[float, int, Request]]) -> None:
        if any(str(request.messages) in self.guilty for _, _, request in waiting):
            type(self).deaths += 1
            raise EngineDied("it cannot stand a prompt")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("number", [0, 2])
def test_a_prompt_of_the_probes_that_kills_the_engine_costs_its_unit_alone(
    number: int, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(tmp_path / "plan", "--samples.budget.samples", "40", "--shards", "1")
    work(plan.folder, [])
    scope, tasks = open_tasks(plan)
    preparer = Preparer(plan, "samples", tasks)
    probe = preparer.probes[number]
    monkeypatch.setattr(DyingOfPrompts, "guilty", {str(probe.messages)}, raising=False)
    monkeypatch.setattr(DyingOfPrompts, "late", late)
    monkeypatch.setattr(DyingOfPrompts, "deaths", 0)
    monkeypatch.setattr(worker, "open_engine", lambda config, _log: DyingOfPrompts(config))
    work(plan.folder, [0])
    merge(plan)
    [quarantined] = [row for row in units(plan) if row["finish_reason"] == "quarantined"]
    unit = make_unit(scope, "samples", quarantined["task_id"], quarantined["index"])
    assert preparer.prepare(unit).request.messages == probe.messages
    assert DyingOfPrompts.deaths <= 4 + 2, "of its unit, and of the probes together and alone"


class DyingOfAProbe(ScriptedEngine):
    """Holds a probe back until units are in flight beside it, and dies then."""

    deaths = 0

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests)
        if len(self._waiting) > len(requests):
            type(self).deaths += 1
            raise EngineDied("a probe killed it some time later")

    def poll(self, timeout_s: float) -> list[Completion]:
        held = [one for one in self._waiting if one[2].unit_id == f"{PROBE}-samples-1"]
        self._waiting = [one for one in self._waiting if one not in held]
        done = super().poll(timeout_s)
        self._waiting += held
        return done


def test_no_unit_is_blamed_for_a_death_that_may_be_a_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(tmp_path / "plan", "--samples.budget.samples", "40", "--shards", "1")
    work(plan.folder, [])
    monkeypatch.setattr(worker, "open_engine", lambda config, _log: DyingOfAProbe(config))
    blamed: list[str] = []
    monkeypatch.setattr(ShardRun, "record_crash", lambda _shard, unit_ids: blamed.extend(unit_ids))
    work(plan.folder, [0])
    assert (DyingOfAProbe.deaths, blamed) == (1, [])


def test_a_model_that_talks_nonsense_stops_early_and_loses_nothing(tmp_path: Path) -> None:
    plan = small_plan(
        tmp_path / "plan", "--samples.budget.samples", "100000", "--filters.short_chars", "[1,2]",
        "--filters.long_chars", "[1,2]", "--filters.sentence_chars", "[1,2]",
    )  # fmt: skip
    for _ in range(2):  # the second time from what is on disk alone
        with pytest.raises(MghError, match=r"none of the first \d+ answers .* can be used: too_long:query"):
            work(plan.folder, [0])
    status = read_status(plan)["samples"]
    assert 256 <= status.counts.units < 400


def test_a_full_disk_is_an_error_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = small_plan(tmp_path / "undisturbed")
    work(undisturbed.folder, ALL)
    plan = small_plan(tmp_path / "plan")
    append = Journal.append
    for room in (2, 4, 3):
        left = [room]

        def full(self: Journal, entries: list[dict[str, Any]], left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                self._file.write(b"\x10\x00\x00\x00torn")
                raise OSError(errno.ENOSPC, "No space left on device")
            append(self, entries)

        monkeypatch.setattr(Journal, "append", full)
        with pytest.raises(MghError, match=r"disk of .* is full: everything finished so far is safe"):
            run_command(plan.folder, None)
    monkeypatch.undo()
    run_command(plan.folder, None)
    assert content(merge(plan).path) == content(merge(undisturbed).path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        plan = small_plan(small / "plan")
        with pytest.raises(MghError, match=r"disk of .* is full"):
            run_command(plan.folder, None)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        run_command(plan.folder, None)
        undisturbed = small_plan(tmp_path / "undisturbed")
        run_command(undisturbed.folder, None)
        assert content(merge(plan).path) == content(merge(undisturbed).path)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_lost_and_damaged_parts_are_made_anew(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, ALL)
    before = content(merge(plan).path)
    parts = sorted(samples_folder(plan, 1).glob("part-*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    parts[1].unlink()
    with pytest.raises(MghError, match=r"part-00000\.parquet is damaged|has lost a part"):
        merge(plan)
    work(plan.folder, [1])
    assert content(merge(plan).path) == before
    assert (samples_folder(plan, 1) / "part-00000.parquet.damaged").exists()


def test_a_remade_part_that_yields_more_does_not_orphan_later_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(tmp_path / "plan", "--engine.scripted.invalid", "0.3", "--chunk", "8")
    work(plan.folder, ALL)
    merge(plan)
    for path in samples_folder(plan, 0).glob("part-0000[0-3].parquet"):
        path.unlink()
    lucky = plan.config.engine.replace(scripted=ScriptedConfig(invalid=0.0))
    monkeypatch.setattr(worker, "open_engine", lambda _config, _log: ScriptedEngine(lucky))
    work(plan.folder, ALL)
    assert merge(plan).counts.accepted > 160
    assert len({row["unit_id"] for row in units(plan)}) == len(units(plan))


@pytest.mark.usefixtures("disk_without_locks")
def test_a_file_system_without_locks_is_worked_on_all_the_same(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, ALL)
    assert merge(plan).counts.accepted >= 160


def test_a_part_of_another_plan_is_not_taken(tmp_path: Path) -> None:
    plan, other = small_plan(tmp_path / "plan"), small_plan(tmp_path / "other", "--seed", "1")
    work(plan.folder, ALL)
    work(other.folder, ALL)
    before = content(merge(plan).path)
    name = "part-00001.parquet"
    (samples_folder(plan, 2) / name).write_bytes((samples_folder(other, 2) / name).read_bytes())
    with pytest.raises(MghError, match="another plan"):
        merge(plan)
    work(plan.folder, ALL)
    assert content(merge(plan).path) == before


def test_a_shard_has_one_worker_at_a_time(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, ALL)
    scope, tasks = open_tasks(plan)
    first = ShardRun(plan, "samples", scope, tasks, 2)
    with pytest.raises(HeldError):
        ShardRun(plan, "samples", scope, tasks, 2)
    assert worker.run(plan, ALL, Silent(plan)) == [2]
    first.close()
    assert worker.run(plan, ALL, Silent(plan)) == []


def test_without_working_locks_two_workers_still_make_one_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = small_plan(tmp_path / "undisturbed")
    work(undisturbed.folder, ALL)
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, [])  # stage 1
    scope, tasks = open_tasks(plan)
    monkeypatch.setattr("mgh_ds.common.files.fcntl.flock", lambda *_: None)
    engine = ScriptedEngine(plan.config.engine)
    both = [ShardRun(plan, "samples", scope, tasks, 0) for _ in range(2)]
    while not all(shard.done for shard in both):
        for shard in both:
            engine.submit([prepared.request for prepared in shard.take(7)])
            shard.finish(engine.poll(0.0), engine.version)
    for shard in both:
        shard.close()
    monkeypatch.undo()
    work(plan.folder, ALL)
    assert content(merge(plan).path) == content(merge(undisturbed).path)


def test_stage_1_waits_for_a_held_shard_and_goes_on(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan")
    held = ShardRun(plan, "tasks", plan.plan_hash, {}, 3)
    process = SERVER.Process(target=work, args=(plan.folder, [0]))
    process.start()
    done = [plan.shard_folder("tasks", shard) / "done.json" for shard in (0, 1, 2)]
    while not all(path.exists() for path in done):
        time.sleep(0.05)
    time.sleep(1)
    assert process.is_alive(), "it waits for shard 3"
    held.close()
    process.join(30)
    assert process.exitcode == 0
    assert (samples_folder(plan, 0) / "done.json").exists()
    assert not samples_folder(plan, 1).exists(), "in stage 2 it works on its own shard alone"


def test_sigterm_ends_in_order_and_says_try_again(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan", "--engine.scripted.delay_s", "0.2")
    command = [sys.executable, "-m", "mgh_ds.cli", "synth", "run", str(plan.folder), "--all"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(plan.folder.glob("work/*/*/*.journal")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == STOPPED == 75
    assert "stopped by SIGTERM: what was finished is kept" in errors
    assert not list(plan.folder.glob("work/workers/*.json"))


def test_status_counts_what_is_in_journals_as_the_worker_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = small_plan(tmp_path / "plan", "--engine.scripted.invalid", "0.3")
    work(plan.folder, [])
    engine = ScriptedEngine(plan.config.engine)
    shard = ShardRun(plan, "samples", *open_tasks(plan), 1)
    engine.submit([prepared.request for prepared in shard.take(15)])
    shard.finish(engine.poll(0.0), engine.version)
    status = read_status(plan)["samples"]
    assert (status.counts, status.journalled) == (shard.total(), 15), "no chunk of 16 is finished yet"
    status_command(plan.folder)
    shown = capsys.readouterr().out
    reached = status.counts.accepted
    assert f"{reached} of 160 ({reached / 1.6:.1f} %)" in shown
    assert f"{reached} of 15 units" in shown
    with pytest.raises(MghError, match=r"no part .* is finished yet: what is finished is in journals"):
        merge_command(plan.folder, partial=True)

    (journal,) = shard.folder.glob("*.journal")  # a second worker, where locks do not work
    journal.with_name("chunk-00000.zz.journal").write_bytes(journal.read_bytes())
    while not shard.done:
        assert read_status(plan)["samples"].counts == shard.total()
        engine.submit([prepared.request for prepared in shard.take(7)])
        shard.finish(engine.poll(0.0), engine.version)
        if shard.total().units == 29:
            merge_command(plan.folder, partial=True)
            assert "13 finished units are in journals only, and left out" in capsys.readouterr().out
    shard.close()
    assert len(list(shard.folder.glob("round-*.json"))) > 1
    status = read_status(plan)["samples"]
    assert (status.counts, status.journalled) == (shard.total(), 0)


def test_status_may_be_asked_while_a_worker_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = small_plan(tmp_path / "plan", "--engine.scripted.delay_s", "0.03")
    process = SERVER.Process(target=work, args=(plan.folder, ALL))
    process.start()
    seen = []
    while process.is_alive():
        status = read_status(plan)["samples"]
        seen.append(status.counts.units)
    process.join()
    assert seen == sorted(seen), "a unit that was seen stays"
    assert len(set(seen)) > 3
    status_command(plan.folder)
    shown = capsys.readouterr().out
    assert "4 of 4" in shown
    assert "tasks are frozen" in shown


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.yaml", ("seed: 0", "seed: 1"), r"`seed` \(frozen as 0, now 1\)"),
        ("slots.yaml", ("formal", "casual"), "slots"),
        ("templates/tasks.jinja", ("task", "chore"), r"templates/tasks\.jinja"),
        ("plan.json", ('"units_version": 2', '"units_version": 3'), "another version of mgh-ds"),
        ("plan.json", ('"plan_hash": "', '"plan_hash": "0'), "its hash is not its content's"),
        ("tasks.json", ("Given", "Taken"), r"tasks\.json was changed after it was frozen"),
    ],
)
def test_a_plan_that_was_changed_is_refused(
    file: str, change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, [])
    path = plan.folder / file
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(MghError, match=message):
        work(plan.folder, ALL)


def test_a_plan_of_other_draws_is_merged_but_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plans, "UNITS_VERSION", 1)
    plan = small_plan(tmp_path / "plan")
    work(plan.folder, [0, 1])
    monkeypatch.undo()
    for settings in ([], ["--engine.max_in_flight", "3"]):
        with pytest.raises(MghError, match=r"earlier mgh-ds.*\(version 1, here 2\).*finish it with that one"):
            run_command(plan.folder, None, settings)
    status_command(plan.folder)
    assert "2 of 4" in capsys.readouterr().out
    merge_command(plan.folder, partial=True)
    assert len(units(plan)) >= 80


def test_only_how_the_engine_is_driven_may_change(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan")
    assert open_plan(plan.folder, ["--engine.max_in_flight", "3"]).plan_hash == plan.plan_hash
    for override in (
        ["--engine.model", "other"],
        ["--samples.sampling.temperature", "0.5"],
        ["--chunk", "8"],
    ):
        with pytest.raises(MghError, match="part of the frozen plan"):
            open_plan(plan.folder, override)
    with pytest.raises(MghError, match="exists already"):
        small_plan(plan.folder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--samples.budget.tokens", "5"], "exactly one of `samples` and `tokens`"),
        (["--tasks.subtypes", "{sts: 0.4, paraphrase: 0.5}"], r"sum to 0\.9, not to 1"),
        (["--tasks.subtypes", "{short: 1.0}"], "unknown key `tasks.subtypes.short`; did you mean"),
        (["--shards", "0"], "shards must lie between 1 and 100,000, found 0"),
        (["--name", ""], "name is empty"),
        (["--filters.long_chars", "[9, 3]"], r"filters\.long_chars"),
        (["--samples.sampling.top_p", "2"], "top_p"),
        (["--engine.kind", "vllm", "--engine.model", "/nowhere/model"], "/nowhere/model"),
        (["--engine.kind", "endpoint", "--engine.endpoint.base_url", "http://me:pw@host/v1"], "base_url"),
        (["--engine.sampels", "3"], "unknown key"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MghError, match=message):
        small_plan(tmp_path / "plan", *overrides)
    assert not list(tmp_path.iterdir())
