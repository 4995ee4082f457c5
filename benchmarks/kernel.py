"""Measures the attention kernels: ours against their peers on a GPU, the portable backend on a CPU.

    python -m benchmarks.kernel --minutes 8          # on a GPU: what decides, then whatever there is time for
    python -m benchmarks.kernel --minutes 8 --go-on  # after a run that was cut off
    python -m benchmarks.kernel --dims 128 --lengths 1024 4096 --without FlexAttention
    python -m benchmarks.kernel --device cpu

From a checkout that is not installed, with torch, Triton and NumPy alone: `PYTHONPATH=kernels python -m …`.

Writes `<device>.csv` (one row a measurement), `<device>.md` (what was aimed at and what was found) and
`<device>.svg`. Every ratio is formed within the run; a peer that cannot take part is a row that says why.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import cpu, environment, gpu, minutes, page, summary, table
from benchmarks.agenda import agenda
from benchmarks.apart import Apart
from benchmarks.contenders import OURS, PEERS
from benchmarks.table import Row

RESULTS = Path(__file__).parent / "results"
QUICK_CPU_LENGTHS = (64, 256)
# What a run that goes on must share with the one before.
SAME = ("commit", "device", "driver", "CUDA", "cuDNN", "python", *environment.PACKAGES)
# What each run has of its own, and keeps beside that of the run that goes on.
OWN = ("date", "clocks")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    path = options.output / environment.file_name(device)
    if device.type == "cpu":
        return _on_cpu(path, options)
    described = environment.describe(device)
    before: list[Row] = []
    if options.go_on:
        try:
            described, before = gone_on(page.csv_of(path), described)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    todo = agenda(dims=options.dims, lengths=options.lengths, without=options.without)
    clocks = environment.Clocks(device)
    book = minutes.Book(path, described, before)

    def sample() -> str:
        clocks.sample()
        return str(clocks)

    status = minutes.run(
        book,
        todo,
        lambda: Apart(gpu.answer),
        minutes=options.minutes,
        jobs=options.jobs or minutes.jobs(),
        sample=sample,
    )
    print(page.text(summary.verdicts(book.rows)))
    for row in book.faults():
        print(f"error: {minutes.line(row)}", file=sys.stderr)
    return status


def gone_on(file: Path, described: Mapping[str, str]) -> tuple[dict[str, str], list[Row]]:
    """What a run that goes on is described by, and the rows it begins with: none where there is no file yet.

    What the two runs differ in stays as it was under names of its own. Raises ValueError if they do not share
    what they must.
    """
    if not file.exists():
        return dict(described), []
    known, found = table.read(file)
    if other := [name for name in SAME if known.get(name) != described.get(name)]:
        raise ValueError(f"{file.name} is of another {', '.join(other)}: run without --go-on")
    earlier = {}
    for name in OWN:
        runs = [known[key] for key in (f"{name} before", name) if key in known]
        if runs:
            earlier[f"{name} before"] = "; then ".join(runs)
    return {**described, **earlier}, table.rows(found)


def _on_cpu(path: Path, options: argparse.Namespace) -> int:
    lengths = options.lengths or (QUICK_CPU_LENGTHS if options.quick else cpu.LENGTHS)
    found = cpu.measure(lengths, rounds=3 if options.quick else 15)
    described = environment.describe(torch.device("cpu"))
    page.publish(path, "Attention on a CPU", cpu.ABOUT, described, *found, cpu.panels(found.rows))
    print(page.text(found.verdicts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel", description=(__doc__ or "").split("\n")[0]
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_gpu else "cpu")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--lengths", type=int, nargs="+", help="only sequences of these lengths")
    on_gpu = parser.add_argument_group("on a GPU")
    on_gpu.add_argument("--minutes", type=float, default=8.0, help="how long it may take; default 8")
    on_gpu.add_argument("--go-on", action="store_true", help="keep what the file has and do the rest")
    on_gpu.add_argument("--dims", type=int, nargs="+", help="only these head dimensions")
    names = sorted({contender.name for contender in (*OURS, *PEERS)})
    on_gpu.add_argument("--without", choices=names, nargs="+", default=[], help="leave these out")
    on_gpu.add_argument("--jobs", type=int, help="processes that check and compile, before anything is timed")
    parser.add_argument("--quick", action="store_true", help="on a CPU: two lengths, few rounds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
