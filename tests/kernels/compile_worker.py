"""Compiles everything that a table ships, in a process of its own: in the tests Triton interprets.

    python -m tests.kernels.compile_worker sm_90 2

Prints one line of JSON for each kernel that was compiled.
"""

import json
import sys

import torch
from ata_attention.gpu import tiles

from benchmarks import compiled

DTYPES = {2: torch.bfloat16, 4: torch.float32}
# Every variant for the chip that the budget is drawn up for; elsewhere the hardest and the most common.
HALF = ("packed", "packed causal", "packed window", "padded", "masked causal", "holed causal")
FULL = ("packed", "packed window", "holed causal")
VARIANTS = {
    ("sm_80", 2): HALF,
    ("sm_90", 2): compiled.VARIANTS,
    ("sm_80", 4): FULL,
    ("sm_90", 4): FULL,
}


def main(table: str, size: int) -> None:
    dtype = DTYPES[size]
    for kernel in compiled.KERNELS:
        for head_dim in tiles.HEAD_DIMS:
            if not compiled.is_shipped(kernel, table, head_dim, dtype):
                continue
            for variant in VARIANTS[table, size]:
                with compiled.compiling_for(table) as found:
                    compiled.start(kernel, variant, head_dim, dtype)
                one = found[-1]
                report = {
                    "entry": f"{kernel} {head_dim}",
                    "variant": variant,
                    **one._asdict(),
                    "loops": [loop._asdict() for loop in one.loops],
                    "serialised": one.serialised,
                    "serial": one.interior.serial,
                    "overlapped": one.interior.overlapped,
                    "interior": one.interior._asdict(),
                    "programs": one.programs_an_sm(table),
                    "fault": one.fault(table, kernel, dtype, head_dim),
                }
                print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
