"""The tuner's choices, with made-up compile results and times."""

import json
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch
from ata_attention.gpu import tiles
from ata_attention.gpu.tiles import Tile

from benchmarks import compiled, tune
from benchmarks.candidates import Entry, candidates, entries
from benchmarks.timing import Timing
from benchmarks.tune import Choice

ATTENTION = Entry("attention", 2, 64)
LARGE, MIDDLE, SMALL = Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)
CLEAN = {LARGE: None, MIDDLE: None, SMALL: None}


def timer(times):
    return lambda _, tile: times[tile]


def test_the_fastest_is_chosen():
    choice = tune.fastest(ATTENTION, CLEAN, timer({LARGE: 1.0, MIDDLE: 0.98, SMALL: 1.2}))
    assert choice.tile == MIDDLE
    assert choice.remarks[1] == "(128, 64, 8, 2) 0.98 ms"


def test_within_a_percent_the_preferred_one_is_chosen():
    assert tune.fastest(ATTENTION, CLEAN, timer({LARGE: 1.0, MIDDLE: 0.991, SMALL: 1.2})).tile == LARGE
    # The limit is drawn from the fastest: there is no drifting from neighbour to neighbour.
    assert tune.fastest(ATTENTION, CLEAN, timer({LARGE: 1.018, MIDDLE: 1.009, SMALL: 1.0})).tile == MIDDLE


def test_what_does_not_compile_cleanly_is_not_timed():
    faults = CLEAN | {LARGE: "attention spills 40 bytes of registers"}
    choice = tune.fastest(ATTENTION, faults, timer({MIDDLE: 3.0, SMALL: 2.0}))
    assert choice.tile == SMALL
    assert choice.remarks[0] == "(128, 128, 8, 2) attention spills 40 bytes of registers"


def test_what_cannot_be_started_is_passed_over():
    def start(_, tile):
        if tile == LARGE:
            raise RuntimeError("out of resource: shared memory")
        return 1.0

    choice = tune.fastest(ATTENTION, CLEAN, start)
    assert choice.tile == MIDDLE
    assert "shared memory" in choice.remarks[0]


def test_a_lost_device_ends_the_run():
    def start(_, __):
        raise torch.AcceleratorError("gone")

    with pytest.raises(torch.AcceleratorError):
        tune.fastest(ATTENTION, CLEAN, start)


def test_nothing_clean_is_no_choice():
    assert tune.fastest(ATTENTION, dict.fromkeys(CLEAN, "spills"), timer({})).tile is None


def test_without_a_gpu_the_first_clean_candidate_is_chosen(monkeypatch):
    tried = []

    def fault(table, entry, tile):
        tried.append((table, entry, tile))
        return "spills" if len(tried) < 3 else None

    monkeypatch.setattr(tune, "fault", fault)
    choice = tune.first_clean("sm_90", ATTENTION)
    assert [tile for _, _, tile in tried] == candidates(ATTENTION)[:3]
    assert choice.tile == tried[-1][2]
    assert len(choice.remarks) == 2


@pytest.fixture
def compilations(monkeypatch):
    """Makes compilation a matter of saying how many bytes each start spills; returns the starts."""
    started = []

    @contextmanager
    def compiling_for(_):
        found = []
        spilled = lambda _, variant, dim, __: 8 if (variant, dim) == ("packed", 96) else 0  # noqa: E731

        def start(*arguments):
            started.append(arguments)
            found.append(compiled.Compiled("attention", 255, spilled(*arguments), 1024, "wgmma.mma_async"))

        monkeypatch.setattr(compiled, "start", start)
        yield found

    monkeypatch.setattr(compiled, "compiling_for", compiling_for)
    return started


def test_one_fault_in_any_variant_is_enough(compilations):
    reason = tune.fault("sm_90", Entry("attention", 2, 96), LARGE)
    assert reason == "attention spills 8 bytes of registers"
    assert compilations[-1] == ("attention", "packed", 96, torch.bfloat16)
    assert tune.fault("sm_90", ATTENTION, LARGE) is None
    assert [variant for _, variant, dim, _ in compilations if dim == 64] == list(compiled.VARIANTS)


def test_an_error_of_the_compiler_is_a_fault(monkeypatch):
    monkeypatch.setattr(compiled, "compiling_for", lambda _: nullcontext([]))
    monkeypatch.setattr(compiled, "start", mock.Mock(side_effect=RuntimeError("no such instruction")))
    assert tune.fault("sm_90", ATTENTION, LARGE) == "RuntimeError: no such instruction"


@pytest.mark.parametrize("table", ["sm_80", "sm_90"])
def test_every_shipped_entry_has_candidates_that_serve_its_kernel(table):
    for entry in entries(table):
        tried = candidates(entry)
        assert len(tried) == len(set(tried)) >= 4
        assert tiles.tile(entry.kernel, table, entry.dim, entry.dtype) in tried, "the one to be beaten"
        assert all(tile.own >= 16 and tile.step >= 16 for tile in tried)
        if entry.fused_keys:
            assert {tile.own for tile in tried} == {entry.fused_keys}
    assert {entry.kernel for entry in entries(table)} == set(compiled.KERNELS)


def test_the_table_is_written_entry_by_entry_and_says_where_it_is_from(tmp_path):
    path = tmp_path / "sm_90.json"
    other = Entry("column_sums", 2, 256)
    everything = [ATTENTION, other]
    spoilt = Choice(other, None, ["(128, 128, 8, 2) spills"])
    assert tune.fill(path, [Choice(ATTENTION, LARGE, []), spoilt], "compiled", everything) == [spoilt]
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == {"source": "compiled", "attention": {"2": {"64": [128, 128, 8, 2]}}}

    assert tune.fill(path, [Choice(other, MIDDLE, [])], "timed", everything) == []
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["source"] == "timed; but attention 2 64: compiled"
    assert written["column_sums"]["2"]["256"] == MIDDLE.listed

    both = [Choice(ATTENTION, SMALL, []), Choice(other, SMALL, [])]
    assert tune.fill(path, both, "timed again", everything) == []
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["source"] == "timed again"
    assert Tile(*written["attention"]["2"]["64"]) == SMALL


def test_a_subset_never_takes_the_place_of_a_table(tmp_path):
    """In a folder that has none yet, the other entries are those that are shipped."""
    path, shipped = tmp_path / "new" / "sm_90.json", tiles.TABLES / "sm_90.json"
    before = json.loads(shipped.read_text(encoding="utf-8"))
    everything = entries("sm_90")
    assert tune.fill(path, [Choice(ATTENTION, SMALL, [])], "timed", everything, shipped) == []
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written.pop("source") == f"attention 2 64: timed; the others: {before.pop('source')}"
    assert written["attention"]["2"].pop("64") == SMALL.listed
    before["attention"]["2"].pop("64")
    assert written == before


def test_a_tile_of_five_is_written_and_read(tmp_path):
    ahead = LARGE._replace(ahead=True)
    tune.fill(tmp_path / "sm_90.json", [Choice(ATTENTION, ahead, [])], "timed", [ATTENTION])
    written = json.loads((tmp_path / "sm_90.json").read_text(encoding="utf-8"))
    assert Tile(*written["attention"]["2"]["64"]) == ahead
    assert (tune.shown(ahead), tune.shown(LARGE)) == ("(128, 128, 8, 2, True)", "(128, 128, 8, 2)")


def test_every_candidate_is_written_and_read_as_it_is():
    assert all(Tile(*tile.listed) == tile for entry in entries("sm_90") for tile in candidates(entry))
    assert Tile(128, 64, 8, 3, False, 128).listed == [128, 64, 8, 3, False, 128]


def test_a_run_that_ends_early_keeps_what_it_found(tmp_path):
    def found():
        yield Choice(ATTENTION, LARGE, [])
        raise KeyboardInterrupt

    path = tmp_path / "sm_80.json"
    with pytest.raises(KeyboardInterrupt):
        tune.fill(path, found(), "timed", [ATTENTION])
    assert json.loads(path.read_text(encoding="utf-8"))["attention"]["2"]["64"] == LARGE.listed


@pytest.mark.skipif(not tiles.interpreted(), reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("kernel", [*compiled.KERNELS[:6], "fused_64"])
def test_every_kernel_can_be_started_alone(kernel, monkeypatch):
    monkeypatch.setattr(tune, "LENGTH", 20)
    monkeypatch.setattr(tune, "HEADS", 2)
    monkeypatch.setattr(tune, "KV_HEADS", 1)
    calls = list(tune.prepare(Entry(kernel, 4, 32), "cpu", tokens=40 if "fused" not in kernel else 64))
    assert len(calls) == len(tune.USED) == 4
    for call in calls:
        found = call()
        assert all(x.isfinite().all() for x in (found if isinstance(found, tuple) else (found,)))


def test_a_tile_is_timed_by_all_that_it_is_used_for(monkeypatch):
    """By the geometric mean: a use that takes long has no more to say than one that is short."""
    used = []

    def prepare(_):
        for ms in (1.0, 100.0):
            yield lambda ms=ms: used.append((ms, tiles.tile("any", "table", 64, torch.float16)))

    class Clock:
        def time(self, call):
            call()
            return Timing(used[-1][0], 0.0)

    monkeypatch.setattr(tune, "prepare", prepare)
    assert tune.time(ATTENTION, MIDDLE, Clock()) == pytest.approx(10.0)
    assert used == [(1.0, MIDDLE), (100.0, MIDDLE)]


def test_full_and_causal_padded_and_packed_are_used(monkeypatch):
    seen = []
    monkeypatch.setattr(tune, "_call", lambda entry, case, _: seen.append((entry.dim, case)))
    for dim in (64, 128):
        list(tune.prepare(Entry("attention", 2, dim), "cpu"))
    assert {(dim, case.d, case.layout, case.causal) for dim, case in seen} == {
        (d, d, layout, causal)
        for d in (64, 128) for layout in ("padded", "packed") for causal in (False, True)
    }  # fmt: skip
    assert {case.n for _, case in seen} == {tune.LENGTH}
    assert {len(set(case.lengths)) > 20 for _, case in seen if case.layout == "packed"} == {True}


def test_nothing_is_compiled_while_tiles_are_timed(monkeypatch):
    """First what the compiler says of every tile, then a start of each sound one; time comes after both."""
    log = []

    class Pool(nullcontext):
        def __init__(self, jobs):
            super().__init__(self)
            assert jobs == 3

        def map(self, function, *arguments):
            for each in zip(*arguments, strict=True):
                log.append(function.func.__name__)
                yield function(*each)

        def submit(self, function, *_):
            log.append(function.__name__)
            return mock.Mock(exception=lambda: None)

        def __exit__(self, *_):
            log.append("end of the processes")

    monkeypatch.setattr(tune, "_processes", Pool)
    monkeypatch.setattr(tune, "GpuClock", lambda: None)
    monkeypatch.setattr(tune, "fault", lambda _, __, tile, ___: "spills" if tile == LARGE else None)
    monkeypatch.setattr(tune, "time", lambda *_, **__: log.append("time") or float(len(log)))
    choices = list(tune._timed("sm_90", [ATTENTION, Entry("column_sums", 2, 64)], jobs=3))
    tried = [len(candidates(choice.entry)) for choice in choices]
    sound = sum(tried) - sum(LARGE in candidates(choice.entry) for choice in choices)
    assert log == [
        *["fault_if_timed"] * sum(tried), "end of the processes", *["start"] * sound, "end of the processes",
        *["time"] * sound,
    ]  # fmt: skip
    assert all(choice.tile not in (None, LARGE) for choice in choices)


@pytest.mark.usefixtures("compilations")
def test_a_small_spill_is_admitted_where_time_decides():
    entry = Entry("attention", 2, 96)  # 8 bytes in one variant
    assert tune.fault_if_timed("sm_90", entry, LARGE) is None
    assert tune.fault("sm_90", entry, LARGE, may_spill=7) == "attention spills 8 bytes of registers"


def test_without_a_gpu_timing_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(tiles, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main([]) == 2
    assert "--compile-only" in capsys.readouterr().err
    monkeypatch.setattr(tiles, "interpreted", lambda: True)
    assert tune.main(["--compile-only", "sm_90"]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err
