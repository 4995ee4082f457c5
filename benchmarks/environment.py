"""What a measurement was made with: the chip, its driver, and the versions of the software."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]

PACKAGES = ("torch", "triton", "transformers", "peft", "flash-attn", "flash-attn-3", "flash-colreduce")


def describe(device: torch.device) -> dict[str, str]:
    """Name and value of everything a reader needs to know to compare figures, in a fixed order."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "device": device_name(device),
    }
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


def commit() -> str:
    """Of this checkout, and whether files differ from it."""
    head = _words("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not head:
        return "unknown: no git here, or no repository"
    changed = _words("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{head}, with changes" if changed else head


class Clocks:
    """What the GPU's clocks were while something was measured."""

    QUERY = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "clocks_throttle_reasons.active")

    def __init__(self, device: torch.device) -> None:
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
        self._chosen = [] if uuid is None else [f"--id=GPU-{uuid}"]
        self._samples: list[list[str]] = []

    def sample(self) -> None:
        """Asks nvidia-smi, which takes tens of milliseconds."""
        query = (
            "nvidia-smi",
            *self._chosen,
            f"--query-gpu={','.join(self.QUERY)}",
            "--format=csv,noheader,nounits",
        )
        cells = [cell.strip() for cell in _words(*query).split("\n")[0].split(",")]
        if len(cells) == len(self.QUERY):
            self._samples.append(cells)

    def __str__(self) -> str:
        return described_clocks(self._samples)


def described_clocks(samples: Sequence[Sequence[str]]) -> str:
    """One line of what nvidia-smi said, each sample in the order of `Clocks.QUERY`."""
    if not samples:
        return "unknown: nvidia-smi is not there or does not say"
    sm, highest, memory, power, reasons = zip(*samples, strict=True)
    measured = [int(mhz) for mhz in sm if mhz.isdecimal()]
    span = f"{min(measured)} to {max(measured)}" if measured else "unknown"
    held = ", ".join(sorted(set(reasons)))
    return (
        f"SM {span} MHz in {len(samples)} samples, at most {highest[-1]}; memory {memory[-1]} MHz; "
        f"power limit {power[-1]} W; throttle reasons {held}"
    )


def _driver() -> str:
    return (
        _words("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
        or "unknown"
    )


def _words(*command: str) -> str:
    """What a program prints; nothing if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
