"""What a measurement was made with: the chip, its driver, and the versions of the software."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

PACKAGES = ("torch", "triton", "transformers", "peft", "flash-attn", "flash-colreduce")


def describe(device: torch.device) -> dict[str, str]:
    """Name and value of everything a reader needs to know to compare figures, in a fixed order."""
    found = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "device": device_name(device)}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        found |= {
            "compute capability": f"{major}.{minor}",
            "driver": _driver(),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    else:
        # Over 1, 5 and 15 minutes, when the measurement ends: who else was at work.
        load = " ".join(f"{minutes:.2f}" for minutes in os.getloadavg())
        found |= {"cores": str(os.cpu_count()), "threads": str(torch.get_num_threads()), "load": load}
    found |= {"python": platform.python_version()}
    return found | {package: version(package) for package in PACKAGES}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def file_name(device: torch.device) -> str:
    """What result files of this device are called: `cpu`, or the GPU's name as `nvidia-h100-80gb-hbm3`."""
    if device.type == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
