"""Chooses the tile sizes in `kernels/ata_attention/gpu/tables`.

    python -m benchmarks.tune                        # on a GPU: the fastest, for the table of its kind
    python -m benchmarks.tune --compile-only sm_90   # anywhere: the first that compiles cleanly
    python -m benchmarks.tune --kernels attention column_sums --dims 128

Either way a tile must compile in every variant, within the shared memory of the chips that the table serves,
and with their tensor cores. Without a GPU it must not spill more registers than `compiled` allows; where time
is taken, time decides, and a tile may spill a little (SMALL_SPILL).

All compilation comes first, in processes of its own: what a process compiled for a chip that is not there
must not be started on one that is, and while tiles are timed nothing else has the CPUs. The table is written
after every entry, whole, with what it had before where nothing was chosen, and says in `source` how its
entries came about.
"""

import argparse
import datetime
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from ata_attention.gpu import launch, tiles
from ata_attention.gpu.tiles import Tile
from tqdm import tqdm

from benchmarks import compiled, environment
from benchmarks.candidates import DTYPES, Entry, candidates, entries
from benchmarks.cases import Case, Layout, make_inputs, packed_lengths, padded_lengths
from benchmarks.contenders import batch_of
from benchmarks.timing import Clock, GpuClock
from mgh_ds.common import files

# A tile must be faster than one preferred to it by more than this to be chosen.
TIE = 0.01
# Bytes of registers that a tile may spill where it is timed, in half precision.
SMALL_SPILL = 128
TOKENS, LENGTH, HEADS, KV_HEADS = 16384, 1024, 32, 8
# How batches lie that are timed, and whether attention is causal.
USED: tuple[tuple[Layout, bool], ...] = (
    ("padded", False),
    ("padded", True),
    ("packed", False),
    ("packed", True),
)

Table = dict[str, Any]
Timer = Callable[[Entry, Tile], float]


class Choice(NamedTuple):
    """What became of an entry: its tile, or None; `remarks` say why others were not taken."""

    entry: Entry
    tile: Tile | None
    remarks: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if tiles.interpreted():
        print("error: Triton's interpreter compiles nothing: unset TRITON_INTERPRET", file=sys.stderr)
        return 2
    if options.compile_only is None and not torch.cuda.is_available():
        print("error: no GPU to time on; --compile-only sm_80 or sm_90 needs none", file=sys.stderr)
        return 2
    table = options.compile_only or tiles.table_of(torch.device("cuda"))
    wanted = [
        entry
        for entry in entries(table)
        if entry.kernel in options.kernels and entry.bytes in options.bytes and entry.dim in options.dims
    ]
    found: Iterable[Choice]
    if options.compile_only:
        origin = f"compiled for {table} with triton {environment.version('triton')}; not timed"
        found = _compiled(table, wanted, options.jobs)
    else:
        origin = _timed_origin()
        found = _timed(table, wanted, options.jobs)
    path = options.output / f"{table}.json"
    missing = fill(path, found, origin, entries(table), tiles.TABLES / path.name)
    for choice in missing:
        print(f"error: no tile for {choice.entry}: " + "; ".join(choice.remarks), file=sys.stderr)
    return int(bool(missing))


# Choosing


def shown(tile: Tile) -> str:
    """For people."""
    return f"({', '.join(map(str, tile.listed))})"


def first_clean(table: str, entry: Entry) -> Choice:
    """The first candidate that compiles cleanly."""
    remarks: list[str] = []
    for tile in candidates(entry):
        reason = fault(table, entry, tile)
        if reason is None:
            return Choice(entry, tile, remarks)
        remarks.append(f"{shown(tile)} {reason}")
    return Choice(entry, None, remarks)


def fastest(entry: Entry, clean: Mapping[Tile, str | None], timer: Timer) -> Choice:
    """The fastest of the candidates that are without fault; among equals, the first.

    `clean` maps the candidates, in order of preference, to their fault or None.
    """
    times: dict[Tile, float] = {}
    remarks = []
    for tile, reason in clean.items():
        if reason is None:
            try:
                times[tile] = timer(entry, tile)
                remarks.append(f"{shown(tile)} {times[tile]:.4g} ms")
                continue
            except torch.AcceleratorError:
                raise  # the device is lost to this process
            except Exception as error:  # what only starting it can tell, such as too little shared memory
                reason = f"{type(error).__name__}: {error}"
        remarks.append(f"{shown(tile)} {reason}")
    limit = (1 + TIE) * min(times.values(), default=math.inf)
    return Choice(entry, next((tile for tile, ms in times.items() if ms <= limit), None), remarks)


def _compiled(table: str, wanted: Sequence[Entry], jobs: int) -> Iterator[Choice]:
    """Choices without a GPU."""
    with _processes(jobs) as pool:
        yield from tqdm(pool.map(partial(first_clean, table), wanted), total=len(wanted), unit="entry")


def _timed(table: str, wanted: Sequence[Entry], jobs: int) -> Iterator[Choice]:
    """Choices by time.

    Every candidate is compiled before the first is timed: for what the compiler says of it, and then on the
    device, so that Triton's cache has what will be timed.
    """
    pairs = [(entry, tile) for entry in wanted for tile in candidates(entry)]
    with _processes(jobs) as pool:
        looked_at = pool.map(partial(fault_if_timed, table), *zip(*pairs, strict=True))
        faults = dict(zip(pairs, tqdm(looked_at, total=len(pairs), unit="tile"), strict=True))
    sound = [pair for pair, reason in faults.items() if reason is None]
    with _processes(jobs) as pool:
        started = [pool.submit(start, *pair) for pair in sound]
        for future in tqdm(started, unit="tile"):
            future.exception()  # it will fail again, and say so, when it is timed
    timer = partial(time, clock=GpuClock())
    for entry in wanted:
        choice = fastest(entry, {tile: faults[entry, tile] for tile in candidates(entry)}, timer)
        tqdm.write(f"{entry}: {choice.tile and shown(choice.tile)}; " + "; ".join(choice.remarks))
        yield choice


def _processes(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context("spawn"))


def fault_if_timed(table: str, entry: Entry, tile: Tile) -> str | None:
    """`fault`, but for a small spill."""
    return fault(table, entry, tile, SMALL_SPILL if entry.bytes == 2 else 0)


def fault(table: str, entry: Entry, tile: Tile, may_spill: int = 0) -> str | None:
    """What keeps a tile from being used; None if it compiles cleanly in every variant.

    Up to `may_spill` bytes of registers are no fault.
    Leaves kernels behind that were compiled for a pretended chip: never in a process that starts kernels.
    """
    with mock.patch.object(tiles, "tile", return_value=tile):
        for variant in compiled.VARIANTS:
            try:
                with compiled.compiling_for(table) as found:
                    compiled.start(entry.kernel, variant, entry.dim, entry.dtype)
            except Exception as error:  # the compiler's own, of many kinds
                return f"{type(error).__name__}: {str(error)[:200]}"
            for one in found:
                if one.spills <= may_spill:
                    one = one._replace(spills=0)
                if (reason := one.fault(table, entry.kernel, entry.dtype, entry.dim)) is not None:
                    return reason
    return None


# Timing


def time(entry: Entry, tile: Tile, clock: Clock) -> float:
    """Milliseconds of the entry's kernel with this tile: the geometric mean over all that it is used for, in
    which each use has the same say."""
    with mock.patch.object(tiles, "tile", return_value=tile):
        return statistics.geometric_mean(clock.time(call).ms for call in prepare(entry))


def start(entry: Entry, tile: Tile) -> None:
    """Starts all that will be timed once: compiled, it is in Triton's cache."""
    with mock.patch.object(tiles, "tile", return_value=tile):
        for call in prepare(entry):
            call()
    torch.cuda.synchronize()


def prepare(entry: Entry, device: str = "cuda", tokens: int = TOKENS) -> Iterator[Callable[[], Any]]:
    """For each of USED a call that starts the entry's kernel alone: padded batches of sequences of LENGTH or,
    fused, of all its keys; packed ones of realistic lengths up to there.

    What other kernels would have computed is made up, at a plausible size: they may have no tile yet.
    """
    n = entry.fused_keys or min(LENGTH, tokens)
    for layout, causal in USED:
        lengths = padded_lengths(n, tokens) if layout == "padded" else packed_lengths(tokens, n)
        case = Case(layout, lengths, HEADS, KV_HEADS, entry.dim, entry.dtype, causal)
        yield _call(entry, case, torch.device(device))


def _call(entry: Entry, case: Case, device: torch.device) -> Callable[[], Any]:
    inputs = make_inputs(case, device)
    q, k, v, d_out, d_sums, _ = inputs
    batch = batch_of(case, inputs)
    lse, delta = (launch.new_numbers(q, batch.packed) for _ in range(2))
    lse.fill_(math.log2(case.n) + 0.7)  # of n scores from a standard normal distribution, in base 2
    delta.zero_()
    column_gradients = d_sums if entry.kernel.endswith("columns") else None
    match entry.kernel:
        case "attention":
            return partial(launch.attention, q, k, v, batch)
        case "column_sums":
            return partial(launch.column_sums, q, k, lse, batch)
        case "backward_dq" | "backward_dq_columns":
            return partial(launch.backward_dq, d_out, column_gradients, q, k, v, q, lse, batch)
        case "backward_dkv" | "backward_dkv_columns":
            return partial(launch.backward_dkv, d_out, column_gradients, q, k, v, lse, delta, batch)
        case _:
            return partial(launch.fused, q, k, v, batch, entry.fused_keys or case.n)


def _timed_origin() -> str:
    device = torch.device("cuda")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"timed on {environment.device_name(device)}, triton {environment.version('triton')}, {date}"


# The table


def fill(
    path: Path, found: Iterable[Choice], origin: str, everything: Sequence[Entry], shipped: Path | None = None
) -> list[Choice]:
    """Enters each choice into the table at `path` as it comes; returns those without a tile.

    An entry that is not among them, or for which no tile was found, keeps what the table had; where there is
    none yet, what the one at `shipped` has. So a few entries never make a table of a few.
    """
    before_it = next((one for one in (path, shipped) if one is not None and one.exists()), None)
    table: Table = json.loads(before_it.read_text(encoding="utf-8")) if before_it else {}
    before = table.get("source", "not recorded")
    done: list[Entry] = []
    missing = []
    for choice in found:
        if choice.tile is None:
            missing.append(choice)
            continue
        done.append(choice.entry)
        kernel, size, dim = choice.entry
        table.setdefault(kernel, {}).setdefault(str(size), {})[str(dim)] = choice.tile.listed
        kept = [entry for entry in everything if entry not in done and _has(table, entry)]
        table["source"] = _source(origin, done, kept, before)
        files.write_text(path, formatted(table))
    return missing


def _has(table: Table, entry: Entry) -> bool:
    return str(entry.dim) in table.get(entry.kernel, {}).get(str(entry.bytes), {})


def _source(origin: str, done: Sequence[Entry], kept: Sequence[Entry], before: str) -> str:
    """`origin`, and which entries are not from there but from `before`; whichever list is shorter."""
    if not kept or origin == before:
        return origin
    if len(kept) <= len(done):
        return f"{origin}; but {', '.join(map(str, kept))}: {before}"
    return f"{', '.join(map(str, done))}: {origin}; the others: {before}"


def formatted(table: Table) -> str:
    """JSON with `source` first and one line for each kernel and element size."""
    kernels = [name for name in compiled.KERNELS if name in table]
    blocks = [f'  "source": {json.dumps(table["source"])}']
    for kernel in kernels:
        sizes = [f'    "{size}": {_line(dims)}' for size, dims in sorted(table[kernel].items())]
        blocks.append(f'  "{kernel}": {{\n' + ",\n".join(sizes) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def _line(dims: dict[str, list[int]]) -> str:
    return json.dumps(dict(sorted(dims.items(), key=lambda item: int(item[0]))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tune", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--compile-only", choices=tuple(compiled.SHARED), help="without a GPU, for this table"
    )
    parser.add_argument("--kernels", choices=compiled.KERNELS, nargs="+", default=compiled.KERNELS)
    parser.add_argument("--bytes", type=int, choices=tuple(DTYPES), nargs="+", default=tuple(DTYPES))
    parser.add_argument(
        "--dims",
        type=int,
        choices=tiles.HEAD_DIMS,
        nargs="+",
        default=tiles.HEAD_DIMS,
        help="head dimensions",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile")
    parser.add_argument("--output", type=Path, default=tiles.TABLES, help="folder of the tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
