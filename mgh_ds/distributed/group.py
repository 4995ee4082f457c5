"""The few things the trainer asks of the process group; a single process without a group counts as rank 0 of
1."""

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.slurm import rank_variables

Result = TypeVar("Result")

# Ranks wait for rank 0 while it scores and exports; nothing else may take as long, and finding each other at
# the start must not.
TIMEOUT = timedelta(hours=2)
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)

# torch 2.13 renames it and warns at the old name; 2.11 and 2.12 know the old one only.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the group that `deepspeed` or `srun` laid out (NCCL on GPUs, gloo on CPUs) and leaves it at the
    end. Started without a launcher, a process is a group of its own."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # torch 2.13 deprecates names of collectives that DeepSpeed 0.19.8 still calls.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if "WORLD_SIZE" not in os.environ:
        os.environ |= rank_variables(os.environ)
    if "WORLD_SIZE" not in os.environ:
        alone = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
        os.environ |= alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name() == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:
            ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks_here))
        # DeepSpeed would compile a shared-memory all-reduce on the spot, which needs a C++ compiler; gloo
        # needs none.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        place, devices = int(os.environ["LOCAL_RANK"]), get_accelerator().device_count()
        if place >= devices:
            # The other ranks, rank 0 among them, cannot be told yet.
            sys.exit(f"error: rank {place} of this machine has no GPU: it has {devices}; start as many ranks")
        get_accelerator().set_device(place)
    backend = get_accelerator().communication_backend_name()
    deepspeed.init_distributed(dist_backend=backend, timeout=RENDEZVOUS_TIMEOUT)
    dist.distributed_c10d._set_pg_timeout(TIMEOUT)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def device() -> torch.device:
    """The device of this rank."""
    from deepspeed.accelerator import get_accelerator

    name = get_accelerator().device_name()
    return torch.device("cpu") if name == "cpu" else torch.device(get_accelerator().current_device_name())


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def on_main(work: Callable[[], Result]) -> Result:
    """Rank 0 does `work` while the others wait; every rank returns its (small) result.

    What the user can mend (an MghError, a full disk) is raised as an MghError on every rank, so that all of
    them stop.
    """
    result, problem = None, None
    if is_main():
        try:
            result = work()
        except (MghError, OSError) as error:
            problem = str(error)
    result, problem = gather_objects((result, problem))[0]
    if problem is not None:
        raise MghError(problem)
    return result


def on_each_machine(work: Callable[[], Result]) -> list[Result]:
    """The first rank of every machine does `work`, rank 0 before the others, whose caches may be the same;
    every rank returns the (small) results, rank 0's first.

    What the user can mend is raised as an MghError on every rank, with the rank that met it.
    """
    first = on_main(work)
    result, problem = None, None
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 and not is_main():
        try:
            result = [work()]
        except (MghError, OSError) as error:
            problem = f"rank {rank()}: {error}"
    found = gather_objects((result, problem))
    problems = [problem for _, problem in found if problem is not None]
    if problems:
        raise MghError(problems[0])
    return [first, *(value for result, _ in found if result for value in result)]


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over the ranks, in place; the same bits on every rank."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def from_main(values: torch.Tensor) -> torch.Tensor:
    """Rank 0's values, which take the place of those of the other ranks."""
    if dist.is_initialized():
        dist.broadcast(values, 0)
    return values


def gather(local: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
    """[n, …] of this rank → [group's size · n, …] in rank order, without a gradient. All ranks bring the same
    shape."""
    if group is None:
        return local
    everyone = local.new_empty((group.size() * local.shape[0], *local.shape[1:]))
    _all_gather(everyone, local.contiguous(), group=group)
    return everyone


def all_gather(local: torch.Tensor) -> torch.Tensor:
    """As `gather`, of all ranks."""
    return gather(local, dist.group.WORLD)


def broadcast_bytes(payload: bytes = b"") -> bytes:
    """Rank 0's bytes, on every rank; what the others give is not looked at."""
    if not dist.is_initialized():
        return payload
    size = int(from_main(torch.tensor([len(payload)], device=device())).item())
    own = bytearray(payload) if is_main() else bytearray(size)
    if not size:
        return b""
    return from_main(torch.frombuffer(own, dtype=torch.uint8).to(device())).cpu().numpy().tobytes()


def gather_bytes(payload: bytes) -> list[bytes]:
    """Every rank's bytes, in rank order, on every rank. One small collective where nobody has any."""
    if not dist.is_initialized():
        return [payload]
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=device())
    sizes[rank()] = len(payload)
    each = all_sum(sizes).tolist()
    if not any(each):
        return [b""] * len(each)
    own = torch.frombuffer(bytearray(payload.ljust(max(each), b"\0")), dtype=torch.uint8).to(device())
    return [
        part[:size].cpu().numpy().tobytes() for part, size in zip(all_gather(own[None]), each, strict=True)
    ]


def gather_on_main(values: torch.Tensor, room: list[torch.Tensor]) -> None:
    """Puts every rank's `values`, of one shape and on its device, into rank 0's `room`: a tensor for each
    rank, in rank order. The others have no room."""
    if dist.is_initialized():
        dist.gather(values, room or None)
    else:
        room[0].copy_(values)


def gather_objects(value: Any) -> list[Any]:
    """Every rank's `value`, in rank order, on every rank (small objects of our own only: they travel
    pickled)."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered
