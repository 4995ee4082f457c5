"""Measures the attention kernels: ours against their peers on a GPU, the portable backend on a CPU.

    python -m benchmarks.kernel                    # everything, on the GPU if there is one
    python -m benchmarks.kernel --quick            # a few shapes
    python -m benchmarks.kernel --device cpu
    python -m benchmarks.kernel --dims 128 --lengths 1024 4096 --without FlexAttention

Writes `<device>.csv` (one row a measurement), `<device>.md` (what was aimed at and what was found) and
`<device>.svg`. Every ratio is formed within the run; a peer that cannot take part is a row that says why.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import cpu, environment, floors, gpu, page
from benchmarks.cases import Heads, Layout, all_cases
from benchmarks.contenders import OURS, PEERS
from benchmarks.timing import GpuClock

RESULTS = Path(__file__).parent / "results"
LENGTHS = tuple(2**i for i in range(6, 16))
TOKENS = 16384
DIMS = (64, 128)
HEADS: tuple[Heads, ...] = ((16, 16), (32, 8))
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
MASKS = ("full", "causal")
LAYOUTS: tuple[Layout, ...] = ("padded", "packed")
QUICK = {"lengths": (128, 1024, 8192), "heads": ((16, 16),), "dtypes": ("bfloat16",), "masks": ("full",)}
QUICK_CPU_LENGTHS = (64, 256)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    path = options.output / environment.file_name(device)
    if device.type == "cpu":
        lengths = options.lengths or (QUICK_CPU_LENGTHS if options.quick else cpu.LENGTHS)
        found = cpu.measure(lengths, rounds=3 if options.quick else 15)
        described = environment.describe(device)
        page.publish(path, "Attention on a CPU", cpu.ABOUT, described, *found, cpu.panels(found.rows))
        print(page.text(found.verdicts))
        return 0
    if options.quick:
        missing = {name: value for name, value in QUICK.items() if getattr(options, name) is None}
        options = argparse.Namespace(**vars(options) | missing)
    cases = list(
        all_cases(
            layouts=options.layouts or LAYOUTS,
            lengths=options.lengths or LENGTHS,
            tokens=options.tokens,
            dims=options.dims or DIMS,
            heads=options.heads or HEADS,
            dtypes=[DTYPES[name] for name in options.dtypes or DTYPES],
            masks=options.masks or MASKS,
        )
    )
    chosen = [contender for contender in (*OURS, *PEERS) if contender.name not in options.without]
    rates = floors.chip_of(environment.device_name(device))
    if options.tflops and options.exponentials:
        rates = floors.Chip(options.tflops * 1e12, options.exponentials * 1e12)
    return gpu.run(path, device, cases, chosen, rates, GpuClock())


def _heads(text: str) -> Heads:
    queries, keys = map(int, text.split("/"))
    return queries, keys


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel", description=(__doc__ or "").split("\n")[0]
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_gpu else "cpu")
    parser.add_argument("--quick", action="store_true", help="a few shapes only")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--lengths", type=int, nargs="+", help="lengths of the sequences")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of a batch")
    parser.add_argument("--dims", type=int, nargs="+", help="head dimensions")
    parser.add_argument("--heads", type=_heads, nargs="+", help="query heads / key heads, as 32/8")
    parser.add_argument("--dtypes", choices=tuple(DTYPES), nargs="+")
    parser.add_argument("--masks", choices=MASKS, nargs="+")
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+")
    names = sorted({contender.name for contender in (*OURS, *PEERS)})
    parser.add_argument("--without", choices=names, nargs="+", default=[], help="leave these out")
    parser.add_argument("--tflops", type=float, help="the chip's dense bf16 rate, for the floor")
    parser.add_argument("--exponentials", type=float, help="the chip's exponentials in 1e12/s, likewise")
    return parser


if __name__ == "__main__":
    sys.exit(main())


if __name__ == "__main__":
    sys.exit(main())
