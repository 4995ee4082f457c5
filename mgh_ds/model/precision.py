"""Which precision a device computes fast."""

import torch

from mgh_ds.model.config import DType, DTypeChoice

# Units that multiply bfloat16 matrices, by torch's names.
BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle(dtype: DTypeChoice, device: torch.device) -> DType:
    """`dtype`, or for auto what `device` computes fastest without loss of range: bfloat16 where it has units
    for it (GPUs from Ampere on, CPUs with AMX or AVX-512 BF16), float32 elsewhere."""
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        has_units = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        capabilities = torch.cpu.get_capabilities()
        has_units = any(capabilities.get(unit) for unit in BFLOAT16_UNITS)
    return "bfloat16" if has_units else "float32"
