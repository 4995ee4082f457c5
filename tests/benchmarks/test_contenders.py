"""What is timed computes what it says; who cannot take part says why."""

from unittest import mock

import pytest
import torch
from ata_attention import reference
from ata_attention.masks import Visibility

from benchmarks import agenda, contenders, environment, floors, gpu, kernel, step, table
from benchmarks.agenda import Agenda, Task
from benchmarks.cases import Case, make_inputs
from benchmarks.contenders import COLREDUCE, EAGER, FLASH_ATTN, OURS, PEERS, SDPA_CUDNN, SDPA_FLASH, Contender
from tests.flash_builds import HUB, KERNELS, RAN

HUB3, HUB2 = HUB
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("quick_interpreter")
interpreted = pytest.mark.skipif(not contenders.tiles.interpreted(), reason="needs TRITON_INTERPRET=1")


class Here:
    """Does tasks in this process, on the CPU."""

    def __init__(self, clock):
        self.clock = clock

    def __call__(self, task, _):
        return gpu.do(task, CPU, self.clock, None)

    def close(self):
        pass


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
    torch.testing.assert_close(calls.forward(), (out, sums))
    torch.testing.assert_close(tuple(calls.backward(calls.trained())), gradients, atol=1e-5, rtol=1e-5)
    plain = contenders.OUR_OUT.prepare(shape, make_inputs(shape, CPU))
    torch.testing.assert_close(plain.forward(), out)
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
    torch.testing.assert_close(one.forward()[1], two.forward()[2])
    fused = contenders.OUR_ONE_PASS.prepare(shape, inputs)
    torch.testing.assert_close(fused.forward()[2], two.forward()[2])
    long = case(lengths=(contenders.LONGEST_FUSED + 1,), heads=(1, 1))
    assert contenders.OUR_SUMS.prepare(long, make_inputs(long, CPU)).note == "two passes"
    for contender in (contenders.OUR_ONE_PASS, contenders.OUR_TWO_PASSES):
        with pytest.raises(contenders.Absent, match="too long"):
            contender.prepare(long, make_inputs(long, CPU))


def test_flash_attn_3_gives_what_2_gives(monkeypatch):
    """Two packages with the same functions; of the newer one some versions add the lse."""
    shape = case()
    inputs = make_inputs(shape, CPU)
    out, _ = results(SDPA_FLASH, shape)

    class Package:
        @staticmethod
        def flash_attn_func(q, k, v, *, softmax_scale, causal):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            found = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True
            )
            return found.transpose(1, 2), None

    monkeypatch.setitem(contenders.importlib.sys.modules, "flash_attn_interface", Package)
    calls = contenders.FLASH_ATTN_3.prepare(shape, inputs)
    torch.testing.assert_close(calls.forward(), out)
    torch.testing.assert_close(tuple(calls.backward(calls.trained())), results(SDPA_FLASH, shape)[1])


@pytest.mark.parametrize(("contender", "name"), [(FLASH_ATTN, HUB2), (contenders.FLASH_ATTN_3, HUB3)])
def test_where_there_is_no_package_a_build_of_kernels_is_timed(contender, name, flash_builds):
    shape = case("packed", lengths=(3, 17, 1))
    inputs = make_inputs(shape, CPU)
    with pytest.raises(contenders.Absent, match=r"not installed: .*; not installed: kernels"):
        contender.prepare(shape, inputs)
    flash_builds({"kernels": KERNELS})
    with pytest.raises(contenders.Absent, match="not fetched: its cache has none"):
        contender.prepare(shape, inputs)
    flash_builds({"kernels": KERNELS, name: HUB[name]})
    calls = contender.prepare(shape, inputs)
    bounds, visibility = inputs.cu_seqlens, Visibility.of(causal=False, window=None)
    expected, _, _ = reference.packed(*inputs[:3], bounds, shape.n, shape.scale, visibility, None)
    torch.testing.assert_close(calls.forward(), expected)
    assert [ran for ran, _ in RAN] == [name]
    assert calls.note == name.partition("/")[2].replace("-", "_")


def test_builds_for_hopper_stay_out_of_other_gpus(flash_builds):
    """There they would end the process."""
    flash_builds({"flash_attn_interface": "raise AssertionError"}, capability=(8, 0))
    shape = case()
    inputs = make_inputs(shape, CPU)
    on_gpu = inputs._replace(q=mock.Mock(is_cuda=True))
    with pytest.raises(contenders.Absent, match="alone"):
        contenders.FLASH_ATTN_3.prepare(shape, on_gpu)


@interpreted
def test_ours_take_packed_batches(clock):
    shape = case("packed", lengths=(3, 17, 1), heads=(2, 1))
    inputs = make_inputs(shape, CPU)
    for contender in OURS:
        rows = list(gpu.measure(contender, shape, inputs, clock, floors.HOPPER))
        assert all(row.ms == 2.0 and not row.note.startswith(("failed", "absent")) for row in rows), rows


def test_absent_peers_are_rows_that_say_why(clock, monkeypatch):
    monkeypatch.setitem(contenders.importlib.sys.modules, "flash_attn", None)
    monkeypatch.setitem(contenders.importlib.sys.modules, "flash_attn_interface", None)
    monkeypatch.setitem(contenders.importlib.sys.modules, "flash_colreduce", None)
    shape, packed = case(), case("packed")
    for contender, where, reason in (
        (FLASH_ATTN, shape, "absent: not installed"),
        (contenders.FLASH_ATTN_3, packed, "absent: not installed"),
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
    """The whole of the command, but for the GPU and for the processes."""
    monkeypatch.setattr(environment, "describe", lambda _: {"device": "fake", "commit": "one"})
    monkeypatch.setattr(environment, "file_name", lambda _: "fake")
    monkeypatch.setattr(environment, "Clocks", lambda _: mock.Mock(__str__=lambda _: "steady"))
    monkeypatch.setattr(kernel, "Apart", lambda _: Here(clock))
    failing = Contender("ours", "out", contenders.PLAIN, None, lambda *_: 1 / 0)
    chosen = (EAGER, SDPA_FLASH, failing)
    monkeypatch.setattr(contenders, "BY_WHAT", {one.what: one for one in chosen})
    cases = [case(lengths=(n,), heads=(1, 1)) for n in (16, 32)]
    tasks = [Task("time", shape, one.what) for shape in cases for one in chosen]
    monkeypatch.setattr(kernel, "agenda", lambda **_: Agenda([], tasks))
    assert kernel.main(["--device", "cuda", "--output", str(tmp_path)]) == 1
    described, rows = table.read(tmp_path / "fake.csv")
    assert (described["commit"], described["clocks"]) == ("one", "steady")
    assert [row["what"] for row in rows] == [EAGER.what, EAGER.what, *[SDPA_FLASH.what] * 2, "ours: out"] * 2
    printed = capsys.readouterr()
    assert "ZeroDivisionError" in printed.err
    assert "eager" in printed.out
    assert (tmp_path / "fake.svg").read_text(encoding="utf-8").count("<circle") == 8
    assert "not measured" in (tmp_path / "fake.md").read_text(encoding="utf-8")

    # Going on, there is nothing left to do; but not with figures of another commit.
    monkeypatch.setattr(kernel, "Apart", None)
    assert kernel.main(["--device", "cuda", "--go-on", "--output", str(tmp_path)]) == 1
    assert table.read(tmp_path / "fake.csv")[1] == rows
    monkeypatch.setattr(environment, "describe", lambda _: {"device": "fake", "commit": "two"})
    assert kernel.main(["--device", "cuda", "--go-on", "--output", str(tmp_path)]) == 2
    assert "fake.csv is of another commit: run without --go-on" in capsys.readouterr().err


@interpreted
def test_first_calls_are_made_before_anything_is_timed(clock):
    (row,) = gpu.do(Task("compile", case(), contenders.OUR_SUMS.what), CPU, clock, None)
    assert row.direction == "compile"
    assert row.first_s > 0
    assert row.ms is None
    assert not clock.results
    (row,) = gpu.do(Task("compile", case("packed"), EAGER.what), CPU, clock, None)
    assert row.note == "absent: it has no packed layout"


def test_the_training_step_is_a_task_too(clock, monkeypatch):
    monkeypatch.setattr(step, "Sizes", lambda: step.TINY)
    monkeypatch.setattr(gpu, "STEP_ROUNDS", 2)
    task = Task("step", agenda.step_case(), agenda.STEP_ATA)
    ata, mean = gpu.do(task, CPU, clock, None)
    assert (ata.what, mean.what, mean.ratio) == (agenda.STEP_ATA, agenda.STEP_MEAN, None)
    assert ata.ratio > 0
    assert "in 2 rounds, attention by" in ata.note
    assert "target: at most 1 % slower" in ata.note

    def lost(*_, **__):
        raise ImportError("no peft")

    monkeypatch.setattr(step, "measure", lost)
    (row,) = gpu.do(task, CPU, clock, None)
    assert row.note == "absent: not installed: no peft"


def test_clocks_are_described_in_a_line():
    samples = [["1980", "1980", "3201", "700.00", "0x0"], ["1755", "1980", "3201", "700.00", "0x4"]]
    assert environment.described_clocks(samples) == (
        "SM 1755 to 1980 MHz in 2 samples, at most 1980; memory 3201 MHz; power limit 700.00 W; "
        "throttle reasons 0x0, 0x4"
    )
    assert environment.described_clocks([["[N/A]"] * 5]).startswith("SM unknown MHz in 1 samples")
    assert environment.described_clocks([]) == "unknown: nvidia-smi is not there or does not say"


def test_the_commit_is_this_checkouts(monkeypatch):
    assert len(environment.commit().split(",")[0]) == 40 or environment.commit().startswith("unknown")
    monkeypatch.setattr(environment.subprocess, "run", mock.Mock(side_effect=FileNotFoundError))
    assert environment.commit() == "unknown: no git here, or no repository"


def test_every_contender_can_be_left_out_by_name():
    names = {contender.name for contender in (*OURS, *PEERS)}
    options = kernel._parser().parse_args(["--without", *names])
    assert set(options.without) == names
