"""What a step achieved: texts and tokens a second, padding, model FLOPs utilisation, memory, waiting.

All of it is reckoned on the host from what it knows already: the lengths of the texts, the sizes of the
weights, the clock. Nothing here waits for a device.
"""

import resource
from collections.abc import Sequence
from typing import Any

import torch

from mgh_ds.distributed.group import world_size
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.training.batch import Size
from mgh_ds.training.flops import ModelFlops, peak_flops
from mgh_ds.training.run_folder import device_name

KIBIBYTE = 1024  # the unit of Linux' ru_maxrss
MEANS = ("texts_per_s", "tokens_per_s", "padding_saved", "padding_spent", "mfu")


class Throughput:
    """Turns what is known of a step into its figures."""

    def __init__(self, flops: ModelFlops, peak: float | None, *, packed: bool) -> None:
        """`peak` is that of all devices together, in FLOP/s, or None where it is unknown; `packed` says
        whether batches are made without padding."""
        self.flops, self.peak, self.packed = flops, peak, packed

    @classmethod
    def of(cls, model: EmbeddingModel, config: ModelConfig) -> "Throughput":
        """Of a model that is trained on devices like this rank's, one a rank."""
        peak = peak_flops(device_name(), config.dtype, tf32=torch.backends.cuda.matmul.allow_tf32)
        of_all = None if peak is None else peak * world_size()
        return cls(ModelFlops.of(model.backbone), of_all, packed=config.padding_free)

    def figures(self, work: Size, seconds: float, wait_seconds: float) -> dict[str, float | None]:
        """Of a step over all ranks that took so many seconds, of which so many a rank waited for its batch.

        texts_per_s, tokens_per_s   over all ranks
        padding_saved               share of a padded batch's places that packing leaves out; 0 if padded
        padding_spent               share of a batch's places that are padding; 0 if packed
        mfu                         model FLOPs a second as a share of the peak; None where that is unknown
        memory_bytes                see `peak_memory`
        wait_share                  of the step's time
        """
        padding = 1 - work.tokens / work.padded_tokens if work.padded_tokens else 0.0
        return {
            "texts_per_s": work.texts / seconds,
            "tokens_per_s": work.tokens / seconds,
            "padding_saved": padding if self.packed else 0.0,
            "padding_spent": 0.0 if self.packed else padding,
            "mfu": self.flops.of_step(work) / seconds / self.peak if self.peak else None,
            "memory_bytes": peak_memory(),
            "wait_seconds": wait_seconds,
            "wait_share": wait_seconds / seconds,
        }


def totals(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A run's figures out of its metrics: means of the steps over their time, and the most memory, None for
    what no line has; and `wait_shares`, see there."""
    steps = [line for line in lines if line["kind"] == "step"]

    def mean(name: str) -> float | None:
        known = [(step[name], step["seconds"]) for step in steps if step.get(name) is not None]
        seconds = sum(each for _, each in known)
        return sum(value * each for value, each in known) / seconds if known else None

    memory = [step["memory_bytes"] for step in steps if "memory_bytes" in step]
    return {
        **{name: mean(name) for name in MEANS},
        "memory_bytes": max(memory, default=None),
        "wait_shares": wait_shares(lines),
    }


def wait_shares(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What training stood still for, as shares of all the time that the lines account for: `batches`, of the
    mean rank; `checkpoints`, while the state is put together, not while it is written; `evaluations`."""

    def total(kind: str, key: str) -> float:
        return sum(line.get(key, 0.0) for line in lines if line["kind"] == kind)

    waits = {
        "batches": total("step", "wait_seconds"),
        "checkpoints": total("checkpoint", "copy_seconds"),
        "evaluations": total("evaluation", "seconds"),
    }
    whole = total("step", "seconds") + waits["checkpoints"] + waits["evaluations"]
    return {name: seconds / whole for name, seconds in waits.items()}


def peak_memory() -> int:
    """The most bytes that this process has held so far: tensors on its GPU, or on a CPU resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
