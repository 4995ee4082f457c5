"""One rank of the test of what a step costs beside its arithmetic: collectives, host reads, pickles."""

import json
import traceback
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mgh_ds.distributed.group import is_main, process_group
from mgh_ds.distributed.signals import StopRequest
from mgh_ds.training.bad_steps import BadSteps
from mgh_ds.training.config import RunConfig
from mgh_ds.training.prefetch import Prefetcher
from mgh_ds.training.run_folder import RunFolder
from mgh_ds.training.trainer import Trainer

# By which Python learns what a tensor holds, and so waits for its device.
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "is_nonzero"}
# Operators whose result has a size that depends on what a tensor holds.
SIZED_BY_VALUES = {"nonzero", "masked_select", "unique", "_unique2", "_local_scalar_dense", "equal"}


class Costs(TorchDispatchMode):
    """Counts by (kind, whose doing): an owner of `OWNERS`, or a file of mgh_ds."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.noted = (
            False  # that what Python does now is a read: the operators behind it are none of their own
        )

    def note(self, kind: str) -> None:
        self.counts[kind, _whose()] += 1

    def __torch_dispatch__(self, op: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        namespace, name = op.namespace, op.name().split("::")[1].split(".")[0]
        if namespace.startswith("c10d"):
            self.note("collective")
        elif not self.noted and (name in SIZED_BY_VALUES or (name == "index" and _has_mask(arguments[1]))):
            self.note("read")
        return op(*arguments, **(options or {}))


class Reads(TorchFunctionMode):
    """What Python does to tensors that are on the host anyway is no operator: it is seen here."""

    def __init__(self, costs: Costs) -> None:
        super().__init__()
        self.costs = costs

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if self.costs.noted or getattr(function, "__name__", "") not in READS:
            return function(*arguments, **(options or {}))
        self.costs.note("read")
        self.costs.noted = True
        try:
            return function(*arguments, **(options or {}))
        finally:
            self.costs.noted = False


def main(config: RunConfig, poisoned: bool) -> None:
    """Trains two steps and prints what the second one cost on this rank."""
    with process_group():
        run = Trainer(config, RunFolder(config.path))
        costs, pickled = Costs(), mock.Mock(side_effect=AssertionError("an object is pickled"))
        bad, stop = BadSteps(9, run.folder), StopRequest()
        with (
            Prefetcher(run.store, run.plan, run.tokenizer, folder=run.shards, first_step=0) as prefetcher,
            run.ledger,
        ):
            run._step(0, prefetcher, bad, stop)
            if poisoned:
                weight = next(weight for weight in run.model.parameters() if weight.requires_grad)
                weight.register_hook(lambda gradient: gradient * torch.nan)
            with (
                mock.patch("torch.distributed.distributed_c10d._object_to_tensor", pickled),
                costs,
                Reads(costs),
            ):
                run._step(1, prefetcher, bad, stop)
        if is_main():
            print(json.dumps([[*key, count] for key, count in sorted(costs.counts.items())]))


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


# The innermost of these directories tells whose doing something is.
OWNERS = {
    "/deepspeed/": "ZeRO",
    "/transformers/": "transformers",
    "/ata_attention/": "attention",
    "/mgh_ds/losses/": "loss",
}


def _whose() -> str:
    for frame in reversed(traceback.extract_stack()):
        for folder, owner in OWNERS.items():
            if folder in frame.filename:
                return owner
        if "/mgh_ds/" in frame.filename and not frame.filename.endswith("distributed/group.py"):
            return frame.filename.partition("/mgh_ds/")[2]
    return "unknown"
