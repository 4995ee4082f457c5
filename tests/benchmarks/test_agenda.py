"""What is done on a GPU, and what comes first."""

import torch
from ata_attention.gpu import tiles

from benchmarks import agenda, contenders
from benchmarks.agenda import STEP_MEAN, Task
from benchmarks.cases import row_of

EVERYTHING = agenda.agenda()


def test_every_kernel_of_the_tables_is_checked_and_the_main_ones_first():
    checks = [task.case for task in EVERYTHING.checks if task.kind == "check"]
    assert len(checks) == len(set(checks))
    found = {(case.d, case.dtype) for case in checks}
    assert found == {(d, dtype) for d in tiles.HEAD_DIMS for dtype in (torch.bfloat16, torch.float16)}
    for d, dtype in found:
        these = [case for case in checks if (case.d, case.dtype) == (d, dtype)]
        for n, layouts in ((300, 4), (900, 3)):
            kinds = {
                (c.layout, len(set(c.lengths)) > 1, c.holes, c.causal, c.window) for c in these if c.n == n
            }
            assert len(kinds) == 3 * layouts, "packed, padded, masked (with holes), full, causal and windowed"
        assert {(case.n, case.causal) for case in these if case.n < 300} == {
            (n, causal) for n in (59, 123, 251) for causal in (False, True)
        }
        assert {case.heads // case.kv_heads for case in these} == {1, 2, 4}
    assert all(n % 16 for case in checks for n in case.lengths if n > 1)
    first = EVERYTHING.checks[:78]
    assert {(task.kind, task.case.d, task.case.dtype) for task in first} == {
        ("check", d, torch.bfloat16) for d in (64, 128)
    }
    assert [task.case.d for task in first[:4]] == [128, 64, 128, 64]


def test_what_is_timed_is_compiled_before():
    compiled = {(task.case, task.what) for task in EVERYTHING.checks if task.kind == "compile"}
    main = {task.case for task in EVERYTHING.timings[:100]} - {agenda.step_case()}
    assert {
        (case, what.what) for case in main for what in (contenders.OUR_OUT, contenders.OUR_SUMS)
    } <= compiled


def test_what_decides_is_timed_first():
    """The head dimensions take turns; padded, packed, causal and grouped heads; then the step."""
    place = next(i for i, task in enumerate(EVERYTHING.timings) if task.kind == "step")
    before = EVERYTHING.timings[:place]
    cases = list(dict.fromkeys(task.case for task in before))
    assert [case.d for case in cases] == [128, 64] * 4
    assert {(case.layout, case.causal, case.heads) for case in cases} == {
        ("padded", False, 16), ("packed", False, 32), ("padded", True, 16), ("packed", True, 32),
    }  # fmt: skip
    padded, packed = (
        {task.what for task in before if task.case.layout == layout} for layout in ("padded", "packed")
    )
    both = {one.what for one in (contenders.OUR_OUT, contenders.OUR_SUMS, contenders.FLASH_ATTN_3)}
    assert (
        both | {contenders.SDPA_CUDNN.what, contenders.SDPA_FLASH.what, contenders.COLREDUCE.what} <= padded
    )
    assert both | {contenders.VARLEN.what, contenders.FLASH_ATTN.what} <= packed
    assert contenders.FLEX.what not in padded | packed, "it compiles for half a minute"
    assert contenders.FLEX.what in {task.what for task in EVERYTHING.timings}
    assert sum(task.cost_s for task in EVERYTHING.timings[: place + 1]) < 0.6 * 8 * 60


def test_nothing_comes_twice():
    for tasks in EVERYTHING:
        assert len(tasks) == len(set(tasks))


def test_parts_can_be_asked_for():
    part = agenda.agenda(dims=[64], lengths=[128], without=["eager"])
    timed = [task for task in part.timings if task.kind == "time"]
    assert {task.case.d for task in [*part.checks, *timed]} == {64}
    assert {task.case.n for task in timed if task.case.layout == "padded"} == {128}
    assert contenders.EAGER.what not in {task.what for task in timed}
    assert {task.kind for task in part.checks} == {"check", "compile"}


def test_a_task_is_done_when_all_of_it_is():
    case = next(agenda.main_cases())
    task, once = Task("time", case, contenders.OUR_SUMS.what), Task("time", case, contenders.COLREDUCE.what)
    forward, backward = (row_of(case, task.what, way)._replace(ms=1.0) for way in ("forward", "backward"))
    assert not task.is_done([])
    assert not task.is_done([forward])
    assert task.is_done([forward, backward])
    assert not task.is_done([forward, forward])
    assert task.is_done([forward, task.row(agenda.OUT_OF_TIME), forward, backward])
    assert task.is_done([forward, backward._replace(ms=None, note="out of memory")])
    assert task.is_done([task.row("absent: not installed")])
    assert not task.is_done([forward, task.row(agenda.OUT_OF_TIME)])
    assert not task.is_done([forward._replace(d=64), backward._replace(d=64)])
    assert once.is_done([row_of(case, once.what, "forward")._replace(ms=1.0)])
    check = Task("check", case, task.what)
    assert not check.is_done([forward, backward])
    assert check.is_done([check.row("")._replace(ratio=0.5)])
    step = Task("step", agenda.step_case(), agenda.STEP_ATA)
    assert not step.is_done([row_of(step.case, STEP_MEAN, "step")])
