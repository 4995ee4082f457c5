"""Which precision a device computes fast."""

import torch

from mgh_ds.model.config import DType, DTypeChoice


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle(dtype: DTypeChoice, device: torch.device) -> DType:
    """`dtype`, or for auto what `device` computes fastest without loss of range: bfloat16 where it has units
    for it (GPUs from Ampere on, CPUs with AMX), float32 elsewhere. On a CPU that has AVX-512's bfloat16 dot
    products alone, float32 is faster: benchmarks/results/cpu-precision-avx512_core_bf16.csv."""
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        has_units = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_units = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return "bfloat16" if has_units else "float32"
