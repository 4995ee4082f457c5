"""The walk through the agenda, with a stand-in for the device and for the clock."""

import math
import threading

import pytest

from benchmarks import agenda, contenders, kernel, minutes, page, table
from benchmarks.agenda import STEP_MEAN, Agenda
from benchmarks.cases import row_of
from mgh_ds.common import files

EVERYTHING = agenda.agenda()


class Device:
    """Does what is asked in no time, while its clock goes on by what it takes."""

    def __init__(self, path, **odd):
        """`odd` names contenders, or kinds of tasks, and what is special about them: seconds, or an error."""
        self.path, self.odd, self.time, self.done, self.closed = path, odd, 0.0, [], 0

    def __call__(self, task, limit_s):
        odd = self.odd.get(task.what.split(":")[0].replace("-", "_"), self.odd.get(task.kind))
        self.done.append((self.time, task))
        if isinstance(odd, Exception):
            raise odd
        seconds = odd or task.cost_s / 2
        forward = row_of(task.case, task.what, "forward" if task.kind == "time" else task.kind)
        forward = forward._replace(ms=1.0, ratio=0.5 if task.kind in ("check", "step") else None)
        yield forward
        # Whoever looks now, because the run was cut off, finds it. Not each time: that would take minutes.
        if len(self.done) % 20 == 1:
            assert table.rows(table.read(self.path.with_suffix(".csv"))[1])[-1] == forward
        self.time += min(seconds, limit_s)
        if seconds > limit_s:
            raise TimeoutError
        if task.kind == "time" and contenders.BY_WHAT[task.what].backward_work is not None:
            yield forward._replace(direction="backward", ms=2.0)
        if task.kind == "step":
            yield row_of(task.case, STEP_MEAN, "step")._replace(ms=1.0)

    def close(self):
        self.closed += 1

    def now(self):
        return self.time


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """To wait for the disk at every row would be all that takes time here."""
    monkeypatch.setattr(files.os, "fsync", lambda _: None)


def walked(tmp_path, todo=EVERYTHING, before=(), minutes_=8.0, described=None, **odd):
    """The device, the book and the exit status after a run of eight minutes."""
    path = tmp_path / "chip"
    device = Device(path, **odd)
    book = minutes.Book(path, described or {"device": "Stand-in"}, before)
    samples = iter(range(10**6))
    status = minutes.run(
        book,
        todo,
        lambda: device,
        minutes=minutes_,
        jobs=1,
        sample=lambda: f"sample {next(samples)}",
        now=device.now,
    )
    return device, book, status


def few(count):
    """The first checks, and measurements up to the step."""
    place = next(i for i, task in enumerate(EVERYTHING.timings) if task.kind == "step")
    return Agenda(EVERYTHING.checks[:count], EVERYTHING.timings[: place + 1])


def test_eight_minutes_are_kept_and_spent_in_order(tmp_path):
    device, book, status = walked(tmp_path)
    assert status == 0
    tasks = [task for _, task in device.done]
    checks = [task for task in tasks if task.kind in ("check", "compile")]
    timings = tasks[len(checks) :]
    assert checks == EVERYTHING.checks[: len(checks)], "in order, and before anything is timed"
    assert timings[:100] == EVERYTHING.timings[:100]
    assert [task.kind for task in timings].count("step") == 1
    end = 8 * 60 - minutes.MARGIN_S
    start_of_timings = device.done[len(checks)][0]
    assert 0.3 * end < start_of_timings <= minutes.CHECKS_SHARE * end
    # Nothing is begun that would not end in time, and whatever is shorter is.
    assert end - 2 * min(task.cost_s for task in EVERYTHING.timings) < device.time <= end
    assert device.closed == 2

    described, found = table.read(tmp_path / "chip.csv")
    assert table.rows(found) == book.rows
    assert described["device"] == "Stand-in"
    assert (
        described["measurements"] == f"{len(timings)} of {len(EVERYTHING.timings)}, as far as the time went"
    )
    assert described["minutes"].endswith("of 8")
    cases = len({task.case for task in timings})
    assert described["clocks"].startswith("sample")
    assert int(described["clocks"].split()[1]) + 1 >= cases
    page = (tmp_path / "chip.md").read_text(encoding="utf-8")
    checked = sum(task.kind == "check" for task in checks)
    assert f"checks on the device: error / what is allowed | ≤ 1 | {checked} | 0.5 | 0.5 | yes" in page
    for target in ("≥ 0.8", "≤ 1.94", "≤ 1.67", "≤ 1.25", "≤ 1.01"):
        assert target in page


def test_what_hangs_or_fails_is_a_row_and_not_the_end(tmp_path, capsys):
    """A peer that hangs, one whose process dies, checks that hang: the time is kept all the same."""
    odd = {"torch SDPA, cuDNN": 1e4, "flash_colreduce": RuntimeError("its process ended with exit code -11")}
    device, book, status = walked(tmp_path, few(6), check=1e4, **odd)
    assert device.time <= 8 * 60
    rows = {(row.direction, row.what, row.d): row for row in book.rows}
    hung = [row for row in book.rows if "cuDNN" in row.what]
    assert hung[0].ms == 1.0, "what it gave before it hung"
    assert [row.note for row in hung[1:]] == [f"{minutes.HUNG}, after 60 s", *[minutes.LEFT_OUT] * 3]
    assert (
        rows["forward", contenders.COLREDUCE.what, 128].note == "failed: its process ended with exit code -11"
    )
    assert rows["step", agenda.STEP_ATA, 128].ratio == 0.5
    assert status == 1, "checks that do not end are a fault of ours"
    assert {row.direction for row in book.faults()} == {"check"}
    assert minutes.HUNG in capsys.readouterr().out


def test_a_task_cut_off_by_the_end_is_no_fault(tmp_path):
    device, book, status = walked(tmp_path, few(2), minutes_=1.0, time=8.0, check=1.0)
    assert device.time == 60 - minutes.MARGIN_S
    assert book.rows[-1].note == agenda.OUT_OF_TIME
    assert status == 0


def test_one_of_ours_that_takes_many_times_what_it_should_hangs_however_little_time_is_left(tmp_path):
    device, book, status = walked(tmp_path, few(2), minutes_=1.0, time=100.0, check=1.0)
    assert device.time == 60 - minutes.MARGIN_S
    assert book.rows[-1].what in minutes.OURS
    assert book.rows[-1].note == f"{minutes.HUNG}, after 43 s"
    assert (status, book.faults()) == (1, [book.rows[-1]])
    slow_peers = {"torch SDPA, cuDNN": 100.0, "torch SDPA, flash": 100.0, "check": 1.0}
    _, book, status = walked(tmp_path, few(2), minutes_=1.0, **slow_peers)
    assert (book.rows[-1].note, status) == (agenda.OUT_OF_TIME, 0)


def test_one_of_ours_that_hangs_is_left_out_where_dimension_and_mask_are_the_same(tmp_path):
    _, book, status = walked(tmp_path, few(2), ours=1e4, check=1.0)
    notes = {}
    for row in book.rows:
        if row.direction == "forward" and row.what == contenders.OUR_OUT.what and row.ms is None:
            notes.setdefault((row.d, row.mask), []).append(row.note)
    assert notes
    for each in notes.values():
        assert each[0].startswith(minutes.HUNG)
        assert set(each[1:]) <= {minutes.LEFT_OUT}
    assert minutes.LEFT_OUT in notes[128, "full"]
    assert status == 1


def test_what_ours_finds_no_memory_for_is_a_fault(tmp_path):
    check, timed = EVERYTHING.checks[0], EVERYTHING.timings[0]
    assert timed.what in minutes.OURS
    peer = timed._replace(what=contenders.EAGER.what)
    rows = [task.row("out of memory") for task in (check, timed, peer)]
    assert minutes.Book(tmp_path / "chip", {}, rows).faults() == rows[:2]


def test_a_task_that_was_cut_in_half_is_done_anew_and_counts_once(tmp_path):
    part = few(4)
    cut = next(task for task in part.timings if contenders.BY_WHAT[task.what].backward_work is not None)
    forward = row_of(cut.case, cut.what, "forward")._replace(ms=7.0)
    other = part.checks[0].row("")._replace(ratio=0.25)
    rest, book, _ = walked(tmp_path, part, [other, forward, cut.row(agenda.OUT_OF_TIME)])
    assert cut in {task for _, task in rest.done}
    mine = [(row.direction, row.ms) for row in book.rows if agenda.key_of(row) == cut.key]
    assert mine == [("forward", 1.0), ("backward", 2.0)]
    assert book.rows[0] == other
    assert walked(tmp_path, part, book.rows)[0].done == []


def test_a_run_that_goes_on_keeps_what_the_earlier_ones_had_of_their_own(tmp_path):
    file, now = tmp_path / "chip.csv", {"device": "Stand-in", "date": "Tuesday"}
    assert kernel.gone_on(file, now) == (now, []), "nothing there yet"
    rows = [
        EVERYTHING.checks[0].row("")._replace(ratio=1.0004),
        EVERYTHING.checks[1].row("")._replace(ratio=math.inf),
    ]
    table.write_rows(file, {"device": "Stand-in", "date": "Monday", "clocks": "slow"}, rows)
    described, found = kernel.gone_on(file, now)
    assert described == now | {"date before": "Monday", "clocks before": "slow"}
    assert found == rows, "and 1.0004 is still more than is allowed"
    table.write_rows(file, described | {"clocks": "fast"}, rows)
    described, _ = kernel.gone_on(file, now | {"date": "Wednesday"})
    assert described["date before"] == "Monday; then Tuesday"
    assert (described["clocks before"], described["date"]) == ("slow; then fast", "Wednesday")
    with pytest.raises(ValueError, match=r"chip\.csv is of another device"):
        kernel.gone_on(file, {"device": "Other"})


def test_without_its_page_a_run_goes_on_but_not_without_its_table(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise ValueError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr(page.figure, "write", broken)
        _, book, status = walked(tmp_path, few(2))
    assert status == 0
    assert table.rows(table.read(tmp_path / "chip.csv")[1]) == book.rows
    assert "page and plot of chip were not written: ValueError: no ink" in capsys.readouterr().out
    monkeypatch.setattr(table, "write", broken)
    with pytest.raises(ValueError, match="no ink"):
        walked(tmp_path, few(2))


def test_errors_beyond_what_is_allowed_are_faults(tmp_path):
    before = [EVERYTHING.checks[0].row("the largest: dq")._replace(ratio=1.2)]
    _, book, status = walked(tmp_path, few(4), before)
    assert status == 1
    assert [row.ratio for row in book.faults()] == [1.2]
    missing = [EVERYTHING.checks[1].row("two runs")._replace(ratio=float("nan"))]
    assert walked(tmp_path, few(4), missing)[2] == 1


def test_a_run_goes_on_where_another_was_cut_off(tmp_path):
    part = few(20)
    device, book, _ = walked(tmp_path, part, minutes_=2.0)
    done = {task for _, task in device.done}
    known = table.rows(table.read(tmp_path / "chip.csv")[1])
    assert known == book.rows
    rest, whole, _ = walked(tmp_path, part, known)
    assert done.isdisjoint(task for _, task in rest.done)
    assert done | {task for _, task in rest.done} == {*part.checks, *part.timings}
    assert whole.rows[: len(known)] == known
    assert whole.described["measurements"].startswith(f"{len(part.timings)} of {len(part.timings)},")


def test_checks_are_shared_and_measurements_are_not(tmp_path):
    """Several workers check at once; one measures."""
    started = []
    both = threading.Barrier(2, timeout=60)

    class Worker:
        def __init__(self):
            started.append(self)

        def __call__(self, task, _):
            if task.kind == "check" and task in part.checks[:2]:
                both.wait()  # each of two is at one of the first two
            yield task.row("")._replace(ms=1.0, ratio=0.1 if task.kind == "check" else None)

        def close(self):
            started.remove(self)

    part = few(6)
    book = minutes.Book(tmp_path / "chip", {}, [])
    assert minutes.run(book, part, Worker, minutes=8, jobs=2) == 0
    assert not started
    checks = [row for row in book.rows if row.direction == "check"]
    assert len(checks) == 6
    timed = [row.what for row in book.rows if row.direction == "forward"]
    assert timed == [task.what for task in part.timings if task.kind == "time"]


def test_an_error_of_ours_stops_the_workers(tmp_path, monkeypatch):
    closed = []
    device = Device(tmp_path / "chip")
    monkeypatch.setattr(device, "close", lambda: closed.append(True))
    book = minutes.Book(tmp_path / "chip", {}, [])
    monkeypatch.setattr(book, "add", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        minutes.run(book, few(4), lambda: device, minutes=8, jobs=1, now=device.now)
    assert closed
