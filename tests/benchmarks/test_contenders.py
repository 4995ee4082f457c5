"""What is timed computes what it says; who cannot take part says why."""

import pytest
import torch

from benchmarks import contenders, floors, gpu, kernel, table
from benchmarks.cases import Case, make_inputs
from benchmarks.contenders import COLREDUCE, EAGER, FLASH_ATTN, OURS, PEERS, SDPA_CUDNN, SDPA_FLASH, Contender

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("quick_interpreter")
interpreted = pytest.mark.skipif(not contenders.tiles.interpreted(), reason="needs TRITON_INTERPRET=1")


def case(layout="padded", lengths=(20, 20), heads=(2, 1), causal=False) -> Case:
    return Case(layout, lengths, *heads, 32, torch.float32, causal)


def results(contender: Contender, shape: Case):
    """Output and gradients."""
    calls = contender.prepare(shape, make_inputs(shape, CPU))
    assert calls.trained is not None
    return calls.forward(), calls.backward(calls.trained())


@pytest.mark.parametrize("causal", [False, True])
def test_eager_and_sdpa_agree(causal):
    shape = case(causal=causal)
    (out, sums), _ = results(EAGER, shape)
    expected, _ = results(SDPA_FLASH, shape)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(sums.sum(-1), torch.full((2, 2), 20.0))


@interpreted
@pytest.mark.parametrize("causal", [False, True])
def test_ours_agree_with_eager(causal):
    shape = case(causal=causal)
    (out, sums), gradients = results(EAGER, shape)
    calls = contenders.OUR_SUMS.prepare(shape, make_inputs(shape, CPU))
    found = calls.forward()
    torch.testing.assert_close((found[0], found[2]), (out, sums))
    torch.testing.assert_close(tuple(calls.backward(calls.trained())), gradients, atol=1e-5, rtol=1e-5)
    plain = contenders.OUR_OUT.prepare(shape, make_inputs(shape, CPU))
    torch.testing.assert_close(plain.forward()[0], out)
    _, expected = results(SDPA_FLASH, shape)
    torch.testing.assert_close(tuple(plain.backward(plain.trained())), expected, atol=1e-5, rtol=1e-5)
    second = contenders.OUR_COLUMN_SUMS.prepare(shape, make_inputs(shape, CPU))
    torch.testing.assert_close(second.forward(), sums)


@interpreted
def test_one_pass_and_two_are_distinguished():
    shape = case()
    inputs = make_inputs(shape, CPU)
    one, two = contenders.OUR_SUMS.prepare(shape, inputs), contenders.OUR_TWO_PASSES.prepare(shape, inputs)
    assert (one.note, one.work) == ("fused", contenders.PLAIN)
    torch.testing.assert_close(one.forward()[2], two.forward()[2])
    long = case(lengths=(contenders.tiles.FUSED_MAX_SEQLEN + 1,), heads=(1, 1))
    assert contenders.OUR_SUMS.prepare(long, make_inputs(long, CPU)).note == "two passes"
    with pytest.raises(contenders.Absent, match="too long"):
        contenders.OUR_TWO_PASSES.prepare(long, make_inputs(long, CPU))


@interpreted
def test_ours_take_packed_batches(clock):
    shape = case("packed", lengths=(3, 17, 1), heads=(2, 1))
    inputs = make_inputs(shape, CPU)
    for contender in OURS:
        rows = list(gpu.measure(contender, shape, inputs, clock, floors.HOPPER))
        assert all(row.ms == 2.0 and not row.note.startswith(("failed", "absent")) for row in rows), rows


def test_absent_peers_are_rows_that_say_why(clock, monkeypatch):
    monkeypatch.setitem(contenders.importlib.sys.modules, "flash_attn", None)
    monkeypatch.setitem(contenders.importlib.sys.modules, "flash_colreduce", None)
    shape, packed = case(), case("packed")
    for contender, where, reason in (
        (FLASH_ATTN, shape, "absent: not installed"),
        (COLREDUCE, shape, "absent: not installed"),
        (COLREDUCE, packed, "absent: it has no packed layout"),
        (SDPA_FLASH, packed, "absent: it has no packed layout"),
        (contenders.VARLEN, shape, "absent: it has only the packed layout"),
        (SDPA_CUDNN, shape, "failed: RuntimeError"),
    ):
        (row,) = gpu.measure(contender, where, make_inputs(where, CPU), clock, None)
        assert row.note.startswith(reason), row
        assert row.what == contender.what
        assert (row.ms, row.tflops, row.peak_mib) == (None, None, None)


def test_out_of_memory_is_a_row_and_a_lost_device_is_not(clock):
    def fails(error):
        def prepare(*_):
            raise error

        return Contender("it", "out", contenders.PLAIN, None, prepare)

    shape = case()
    inputs = make_inputs(shape, CPU)
    (row,) = gpu.measure(fails(torch.OutOfMemoryError("of 80 GiB")), shape, inputs, clock, None)
    assert row.note == "out of memory"
    with pytest.raises(torch.AcceleratorError):
        list(gpu.measure(fails(torch.AcceleratorError("gone")), shape, inputs, clock, None))


def test_rates_come_from_the_clock(clock):
    shape = case(lengths=(100,), heads=(2, 2))
    forward, backward = gpu.measure(EAGER, shape, make_inputs(shape, CPU), clock, floors.HOPPER)
    # 4·100²·32·2 FLOP in 2 ms.
    assert forward.tflops == pytest.approx(2.56e6 / 2e-3 / 1e12)
    assert forward.column_tflops == pytest.approx(forward.tflops / 2)
    assert backward.tflops == pytest.approx(2.5 * forward.tflops)
    assert backward.column_tflops is None
    assert forward.floor_share == pytest.approx(floors.floor_ms(shape, EAGER.work, floors.HOPPER) / 2)
    assert (forward.host_us, forward.peak_mib) == (10.0, 3.0)


def test_a_run_publishes_rows_summary_and_plot(tmp_path, clock, monkeypatch, capsys):
    monkeypatch.setattr(gpu.environment, "describe", lambda _: {"device": "fake"})
    path = tmp_path / "fake"
    failing = Contender("ours", "out", contenders.PLAIN, None, lambda *_: 1 / 0)
    monkeypatch.setattr(gpu, "OURS", (failing,))
    chosen = (EAGER, SDPA_FLASH, failing)
    cases = [case(lengths=(n,), heads=(1, 1)) for n in (16, 32)]
    assert gpu.run(path, CPU, cases, chosen, None, clock) == 1
    _, rows = table.read(tmp_path / "fake.csv")
    assert [row["what"] for row in rows] == [EAGER.what, EAGER.what, *[SDPA_FLASH.what] * 2, "ours: out"] * 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert (tmp_path / "fake.svg").read_text(encoding="utf-8").count("<circle") == 8
    assert "not measured" in (tmp_path / "fake.md").read_text(encoding="utf-8")


def test_every_contender_can_be_left_out_by_name():
    names = {contender.name for contender in (*OURS, *PEERS)}
    options = kernel._parser().parse_args(["--without", *names])
    assert set(options.without) == names
