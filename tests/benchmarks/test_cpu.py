"""The CPU part, end to end on tiny sizes."""

import pytest
import torch

from benchmarks import cpu, kernel, table, timing


def test_a_quick_run_writes_all_files(tmp_path, capsys):
    assert kernel.main(["--device", "cpu", "--quick", "--lengths", "64", "--output", str(tmp_path)]) == 0
    environment, rows = table.read(tmp_path / "cpu.csv")
    assert environment["torch"] == torch.__version__
    assert {"date", "device", "threads", "triton"} <= environment.keys()
    assert [row["what"] for row in rows] == [cpu.CHUNKED, cpu.EAGER]
    assert all(float(row["ms"]) > 0 and row["heads"] == "12/12" for row in rows)
    assert "times eager's time" in rows[0]["note"]
    page = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    assert "time, n = 512: chunked / eager | ≤ 1.3 | 0 | not measured" in page
    assert (tmp_path / "cpu.svg").exists()
    assert "not measured" in capsys.readouterr().out


def test_both_sides_compute_the_same():
    for ours, theirs in zip(cpu.chunked(50, 2)(), cpu.eager(50, 2)(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_verdicts_are_the_aims():
    time, _, memory = cpu._verdicts({64: 1.5, 512: 1.2}, {512: 0.5, 8192: 0.04})
    assert time[1:] == ("≤ 1.3", 1, 1.2, 1.2, 1)
    assert memory[1:] == ("≤ 0.05", 1, 0.04, 0.04, 1)
    assert cpu.case_of(4096).heads == 12
    assert cpu.case_of(8192).heads == 4


def fill(mebibytes: int):
    return lambda: bytearray(b"x") * (mebibytes * 2**20)


def test_peak_memory_is_that_of_the_call_alone():
    assert timing.peak_mib_in_fresh_process(fill, 64) == pytest.approx(64, abs=3)


def test_calls_take_turns():
    order = []
    times = timing.interleaved_ms([lambda: order.append("a"), lambda: order.append("b")], 2)
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert len(times) == 2
    assert all(len(round_) == 2 for round_ in times)
