"""Which precision a device computes fast."""

import torch

from mgh_ds.model.config import DType, DTypeChoice


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle(dtype: DTypeChoice, device: torch.device) -> DType:
    """`dtype`, or for auto what `device` computes fastest without loss of range: bfloat16 where it has units
    for it (GPUs from Ampere on, CPUs with AMX, AMD's with AVX-512's bfloat16 products), float32 elsewhere.
    On an Intel CPU with those products and without AMX float32 is faster, on AMD's it is not:
    benchmarks/results/cpu-precision*.csv."""
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        has_units = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        cpu = torch.cpu.get_capabilities()
        is_amd = str(cpu.get("cpu_name", "")).startswith("AMD")
        has_units = bool(cpu.get("amx_bf16") or (is_amd and cpu.get("avx512_bf16")))
    return "bfloat16" if has_units else "float32"
