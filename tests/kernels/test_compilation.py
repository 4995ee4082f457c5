"""Every shipped tile, compiled ahead of time for the chips that its table serves."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ata_attention.gpu import tiles

from benchmarks import compiled
from benchmarks.machine_code import Loop
from tests.kernels.compile_worker import VARIANTS

ROOT = Path(__file__).parents[2]
TABLES = ("sm_80", "sm_90")
SIZES = (2, 4)
# How far the machine code may be from the table in docs/kernels.md, for another ptxas.
MARGIN = 1.1


@pytest.fixture(scope="module")
def reports():
    """By table and bytes per element, what became of each kernel. Two processes at a time do the work."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    def report(table: str, size: int) -> list[dict]:
        command = [sys.executable, "-m", "tests.kernels.compile_worker", table, str(size)]
        lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return [json.loads(line) for line in lines.splitlines()]

    with ThreadPoolExecutor(2) as pool:
        futures: dict[tuple[str, int], Future] = {
            (table, size): pool.submit(report, table, size) for size in SIZES for table in TABLES
        }
        yield {key: future.result() for key, future in futures.items()}


@pytest.mark.system  # ten minutes of a compiler's time where nothing is in Triton's cache
@pytest.mark.xdist_group("compilation")  # one worker, so one set of reports
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("table", TABLES)
def test_everything_shipped_compiles_cleanly(reports, table, size):
    """In half precision no spilled register but a few of one kernel, and tensor-core instructions; shared
    memory within the chip."""
    found = reports[table, size]
    assert [f"{one['entry']} {one['variant']}: {one['fault']}" for one in found if one["fault"]] == []
    dtype = {2: torch.bfloat16, 4: torch.float32}[size]
    entries = {one["entry"] for one in found}
    for kernel in ("attention", "column_sums", "backward_dq_columns", "backward_dkv_columns"):
        assert {f"{kernel} {d}" for d in tiles.HEAD_DIMS} <= entries
    for head_dim in (64, 128):
        assert compiled.is_shipped("fused_128", table, head_dim, dtype) is (
            f"fused_128 {head_dim}" in entries
        )
    assert {one["variant"] for one in found} == set(VARIANTS[table, size])
    # More than a few bytes only in fp32, at the largest head dimension.
    spilling = {one["entry"] for one in found if one["spills"] > 32}
    assert spilling <= ({"backward_dq 256", "backward_dq_columns 256"} if size == 4 else set())
    if size == 2:
        spilling = {one["entry"]: one["spills"] for one in found if one["spills"]}
        few = {f"backward_dq_columns {d}" for d in (32, 64, 96, 128)}
        few |= {"backward_dkv 256", "backward_dkv_columns 256"}
        described = {"attention 96", "attention 128"} if table == "sm_90" else set()
        assert set(spilling) <= few | described
        assert max((spilling[entry] for entry in set(spilling) & few), default=0) <= 16
        several = [one for one in found if one["entry"] in described and one["spills"]]
        assert all(one["variant"].startswith(("packed", "masked")) and one["spills"] <= 24 for one in several)
        expected = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async"}[table]
        others = {one["entry"] for one in found if one["tensor_cores"] != expected}
        # The one exception, by name: the fused kernel's rows, if wide.
        assert all("fused" in entry and entry.endswith(" 256") for entry in others)


@pytest.mark.system
@pytest.mark.xdist_group("compilation")
@pytest.mark.timeout(3600)
def test_a_score_costs_what_the_budget_allows(reports):
    """Static speed on sm_90, in bf16: see the table in docs/kernels.md. No clock ran."""
    found = [one for one in reports["sm_90", 2] if one["entry"].endswith((" 64", " 96", " 128"))]
    waiting = [one for one in reports["sm_90", 2] if one["serialised"]]
    assert [f"{one['entry']} {one['variant']}" for one in waiting] == []
    said = re.findall(
        r"\| `(\w+)`, ([\w ]+) \| [^|]+ \| ([\d.]+) /", (ROOT / "docs" / "kernels.md").read_text()
    )
    budget = {(f"{kernel} 128", variant): float(instructions) for kernel, variant, instructions in said}
    assert len(budget) == 4 * len(compiled.VARIANTS)
    by_name = {(one["entry"], one["variant"]): one["interior"]["instructions"] for one in found}
    over = {key: by_name[key] for key, limit in budget.items() if by_name[key] > MARGIN * limit}
    assert over == {}
    # Where the table says so, the tensor cores work during the softmax of steps without a mask.
    ahead = {
        f"attention {d}" for d in tiles.HEAD_DIMS if tiles.tile("attention", "sm_90", d, torch.bfloat16).ahead
    }
    assert ahead == {"attention 96", "attention 128", "attention 256"}
    # What little the kernels spill there, they spill outside their loops.
    whole = [one for one in reports["sm_90", 2] if one["entry"] in ahead]
    assert {one["entry"] for one in whole if any(loop["spills"] for loop in one["loops"])} == set()
    whole = [one for one in whole if not one["variant"].startswith("holed")]
    assert len(whole) == 9 * len(ahead)
    alone = [one for one in whole if one["interior"]["during_products"] < 0.9]
    assert [f"{one['entry']} {one['variant']}" for one in alone] == []
    costly = {
        (one["entry"], one["variant"]): one["interior"]["instructions"]
        for one in whole
        if one["entry"] == "attention 128" and one["interior"]["instructions"] > 8.5
    }
    assert costly == {}
    # The threads of `fused` meet once behind all tiles to add up the columns, where registers suffice for it.
    packed = {one["entry"]: one["interior"] for one in found if one["variant"] == "packed"}
    for entry, barriers, instructions in (
        ("fused_128 64", 6, 13),
        ("fused_64 64", 6, 15.9),
        ("fused_64 128", 8, 18.5),
    ):
        assert packed[entry]["barriers"] <= barriers
        assert packed[entry]["instructions"] <= MARGIN * instructions
    # A gradient through the sums costs the backward pass an eighth product, and nothing beside it that shows.
    cycles = {(one["entry"], one["variant"]): one["overlapped"] for one in found}
    for head_dim in (64, 128):
        for variant in compiled.VARIANTS:
            plain, with_sums = (
                cycles[f"backward_dq{kind} {head_dim}", variant]
                + cycles[f"backward_dkv{kind} {head_dim}", variant]
                for kind in ("", "_columns")
            )
            allowed = 1.35 if head_dim == 64 and variant.startswith("holed") else 1.2
            assert with_sums <= allowed * plain, (head_dim, variant, with_sums / plain)
    # No score is computed twice, and no exponential but those that rescale a row.
    backward = re.compile(r"backward_\w+ (64|96|128|256)")
    found += [one for one in reports["sm_80", 2] + reports["sm_90", 2] if backward.fullmatch(one["entry"])]
    assert {one["entry"] for one in found if one["interior"]["exponentials"] > 1.07} == set()


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_a_tile_for_everything_and_says_how_it_came_about(table):
    content = tiles.read(table)
    assert content["source"]
    for kernel in compiled.KERNELS:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for head_dim in (8, *tiles.HEAD_DIMS):
                if compiled.is_shipped(kernel, table, head_dim, dtype):
                    tile = tiles.tile(kernel, table, head_dim, dtype)
                    assert min(tile.own, tile.step) >= 16
                    # With fewer rows than its warps' share of a product all warps would compute all of it.
                    if table == "sm_90" and dtype.itemsize == 2 and kernel not in compiled.FUSED_KERNELS:
                        assert tile.own >= 16 * tile.warps


def test_faults_are_found():
    """The checks can fail."""
    sound = compiled.Compiled("attention", 200, 0, 1024, "wgmma.mma_async")
    assert sound.fault("sm_90", "attention", torch.bfloat16, 64) is None
    assert "spills 8 bytes" in sound._replace(spills=8).fault("sm_90", "attention", torch.bfloat16, 64)
    assert sound._replace(spills=16).fault("sm_90", "backward_dq_columns", torch.bfloat16, 128) is None
    assert sound._replace(spills=40).fault("sm_90", "backward_dq_columns", torch.bfloat16, 128) is not None
    described = sound._replace(spills=24, described=True)
    assert described.fault("sm_90", "attention", torch.bfloat16, 128) is None
    within = Loop(7.8, 1.0, 256.0, True, False, 3, 1.0, spills=1)
    assert described._replace(loops=(within,)).fault("sm_90", "attention", torch.bfloat16, 128) is not None
    assert described._replace(spills=28).fault("sm_90", "attention", torch.bfloat16, 128) is not None
    assert "shared memory" in sound._replace(shared=100 * 1024).fault("sm_80", "attention", torch.float32, 64)
    assert "uses mma.sync" in sound._replace(tensor_cores="mma.sync").fault(
        "sm_90", "attention", torch.bfloat16, 64
    )
    slow = sound._replace(tensor_cores="mma.sync")
    assert slow.fault("sm_90", "fused_128", torch.bfloat16, 256) is None
    assert slow.fault("sm_90", "fused_128", torch.bfloat16, 64) is not None
    assert sound._replace(tensor_cores=None).fault("sm_90", "attention", torch.float32, 64) is None
