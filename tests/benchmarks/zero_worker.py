"""One rank of the count of ZeRO-2's bytes: a backward pass and an update through the real engine."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from benchmarks.scaling import FP32, zero2_exchange
from mgh_ds.distributed.group import process_group, world_size
from mgh_ds.training.config import TrainingConfig
from mgh_ds.training.engine import make_engine
from tests.training.gradient_setup import make_config, make_model

FLAG_BYTES = 64  # a collective of fewer bytes tells of an overflow or a norm


def main() -> None:
    with process_group():
        torch.set_num_threads(1)
        config = make_config(TrainingConfig(steps=2, global_batch=12, micro_batch=2))
        model, _ = make_model(config)
        engine = make_engine(model, config.model, config.training)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with counted() as sizes:
            engine.backward(torch.stack([parameter.square().sum() for parameter in trainable]).sum())
            engine.step()
        numbers = sum(parameter.numel() for parameter in trainable)
        expected = zero2_exchange(numbers, world_size(), weight_bytes=FP32)
        assert sizes == {"all_reduce": expected.gradients, "all_gather": expected.weights}, sizes
        print("counted")


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Bytes of the tensors that collectives bring about, by kind of collective."""
    from deepspeed import comm

    sizes: Counter[str] = Counter()

    def watch(owner: Any, attribute: str, kind: str) -> Any:
        function = getattr(owner, attribute)

        def call(*arguments: Any, **named: Any) -> Any:
            size = max(one.nbytes for one in (*arguments, *named.values()) if torch.is_tensor(one))
            if size > FLAG_BYTES:
                sizes[kind] += size
            return function(*arguments, **named)

        return mock.patch.object(owner, attribute, call)

    with contextlib.ExitStack() as stack:
        for kind in ("all_reduce", "reduce", "broadcast"):
            stack.enter_context(watch(dist, kind, kind))
        stack.enter_context(watch(comm.comm.cdb, "all_gather_function", "all_gather"))
        stack.enter_context(watch(comm.comm.cdb, "reduce_scatter_function", "reduce_scatter"))
        yield sizes
