"""PROJECTION of a training step past this machine: time, communication, memory and checkpoints by nodes.

Nothing here is measured. Every figure follows from `Assumptions` and the formulas of `scaling_model`,
`scaling_costs` and `scaling_gathers`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.scaling_costs import Traffic, doubling_all_reduce, ring_all_gather, ring_all_reduce
from benchmarks.scaling_gathers import OPTIONS, Option, pool
from benchmarks.scaling_model import (
    BF16,
    FP32,
    SCORE_BYTES,
    Shapes,
    checkpoint_bytes,
    state_bytes,
)
from mgh_ds.common.errors import MghError
from mgh_ds.training.loss import BLOCK

NODES = (1, 2, 4, 8, 16, 32, 64, 128)
GLOBAL_BATCHES = (512, 2048, 8192)
NEGATIVES = (1, 4)

# All-reduces of a few bytes in a step: texts and tokens, finite embeddings, sums of the loss, figures by
# level, overflow, gradient norm, the request to stop.
FLAGS, FLAG_BYTES = 7, 64


def _given(default: Any, what: str) -> Any:
    return field(default=default, metadata={"what": what})


@dataclass(frozen=True)
class Assumptions:
    """The machine and the recipe; each is an option of the command line."""

    gpus: int = _given(8, "GPUs a node, each with a network card of its own")
    peak_tflops: float = _given(989.0, "dense bf16 TFLOP/s a GPU: H100 SXM, vendor's data sheet")
    utilisation: float = _given(0.4, "share of the peak that all FLOP of a step reach, recomputed ones too")
    memory_gb: float = _given(80.0, "GB a GPU: H100 SXM, vendor's data sheet")
    reserve_gb: float = _given(4.0, "GB a GPU for context, communication buffers and fragmentation")
    nvlink_gbs: float = _given(450.0, "GB/s a GPU and direction in a node: NVLink 4 has 900 both ways")
    network_gbs: float = _given(50.0, "GB/s a card and direction: InfiniBand NDR, 400 Gb/s")
    link_efficiency: float = _given(0.8, "share of both links' bandwidth that collectives reach")
    nvlink_us: float = _given(3.4, "microseconds a message in a node: NCCL's tuning constant, ring, Simple")
    network_us: float = _given(14.0, "microseconds a message between nodes: the same table")
    pcie_gbs: float = _given(25.0, "GB/s from a GPU to its host")
    disk_gbs: float = _given(1.0, "GB/s to the checkpoint's disk")
    micro_batch: int = _given(8, "records a forward pass")
    max_length: int = _given(512, "tokens of the longest text: for memory")
    mean_length: int = _given(256, "tokens of a text on average: for time")
    pools: int = _given(4, "pools that the option `pools` cuts the batch into")
    symmetric: bool = _given(False, "the loss is symmetric, so queries travel too")

    def __post_init__(self) -> None:
        if self.gpus % self.pools or any(batch % self.pools for batch in GLOBAL_BATCHES):
            raise MghError(f"{self.pools} pools do not divide {self.gpus} GPUs a node and every global batch")


class Memory(NamedTuple):
    """Bytes a GPU."""

    weights: float  # frozen, bf16
    adapters: float  # weights, gradients, partition of the optimiser
    activations: float  # of one micro-batch of texts of the greatest length
    pool: float  # embeddings of the pool, and their gradient
    scores: float  # of the block at work, with the gradient of its candidates
    reserve: float


class Step(NamedTuple):
    """PROJECTION of one step; figures are None where the batch does not fit the ranks.

    Attributes:
        micro_batches: of the busiest rank.
        cached: whether it goes through them twice; with one micro-batch gradient caching has no use.
        compute_s, gather_s, gradient_s, weights_s, flags_s: seconds of computing, of gathering the pool
            forward and backward, of ZeRO-2's all-reduce of the gradient, of its all-gather of the updated
            weights, and of FLAGS.
        step_s: their sum; nothing overlaps.
        sent_bytes: by a rank for the pool, forward and backward.
        efficiency: records a second and GPU, as a share of those of one node.
    """

    nodes: int
    ranks: int
    global_batch: int
    negatives: int
    gather: Option
    note: str = ""
    micro_batches: int | None = None
    cached: bool | None = None
    compute_s: float | None = None
    gather_s: float | None = None
    gradient_s: float | None = None
    weights_s: float | None = None
    flags_s: float | None = None
    step_s: float | None = None
    communication_share: float | None = None
    records_per_s: float | None = None
    efficiency: float | None = None
    gathered_bytes: int | None = None
    sent_bytes: float | None = None
    memory: Memory | None = None
    memory_bytes: float | None = None


class Exchange(NamedTuple):
    """PROJECTION of a collective whose size depends on the adapters alone. `sent_bytes` by a GPU; in a ring
    as many leave a node, over all its cards."""

    nodes: int
    ranks: int
    what: str
    bytes: int
    sent_bytes: float
    network_bytes: float
    seconds: float


class Checkpoint(NamedTuple):
    """PROJECTION of one checkpoint. The step waits for `gather_s` and `copy_s`; `write_s` is in the
    background."""

    nodes: int
    ranks: int
    bytes: int
    gather_s: float
    copy_s: float
    write_s: float


class Fabric:
    """Seconds of collectives over nodes that are all full."""

    def __init__(self, given: Assumptions) -> None:
        self.gpus = given.gpus
        self.inside, self.across = given.nvlink_us * 1e-6, given.network_us * 1e-6
        self.nvlink = given.nvlink_gbs * 1e9 * given.link_efficiency
        self.card = given.network_gbs * 1e9 * given.link_efficiency

    def ring(self, traffic: Traffic, nodes: int, a_node: int, cards: int) -> float:
        """A ring visits node after node, each with `a_node` ranks, so that of the p − 1 hops of a lap
        (nodes − 1) cross the network. The slowest link sets the bandwidth; `cards` of a node carry parts of
        the data side by side."""
        if nodes * a_node == 1:
            return 0.0
        crossing = traffic.steps * (nodes - 1) / (nodes * a_node - 1)
        latency = (traffic.steps - crossing) * self.inside + crossing * self.across
        bandwidth = self.nvlink if nodes == 1 else min(self.nvlink, cards * self.card)
        return latency + traffic.bytes / bandwidth

    def all_gather(self, size: int, nodes: int, groups: int = 1) -> float:
        """In each of `groups` groups at once, which share every node's ranks and cards evenly: rank r belongs
        to group r mod groups."""
        a_node = self.gpus // groups
        return self.ring(ring_all_gather(nodes * a_node, size), nodes, a_node, cards=a_node)

    def all_reduce(self, size: int, nodes: int) -> float:
        """The quicker of ring and recursive doubling."""
        ring = self.ring(ring_all_reduce(nodes * self.gpus, size), nodes, self.gpus, cards=self.gpus)
        near, far = doubling_all_reduce(self.gpus, size), doubling_all_reduce(nodes, size)
        inside = near.steps * self.inside + near.bytes / self.nvlink
        return min(ring, inside + far.steps * self.across + far.bytes / self.card)

    def visit(self, traffic: Traffic, nodes: int) -> float:
        """The ring in which the pool travels: a chunk goes from GPU to GPU, so that a single card carries
        what crosses to the next node."""
        return self.ring(traffic, nodes, self.gpus, cards=1)


def project(shapes: Shapes, given: Assumptions) -> Iterator[Step]:
    """A step for every batch, number of negatives, way to gather and number of nodes."""
    for global_batch in GLOBAL_BATCHES:
        for negatives in NEGATIVES:
            for option in OPTIONS:
                first: Step | None = None
                for nodes in NODES:
                    step = project_step(shapes, given, nodes, global_batch, negatives, option)
                    first = first or step
                    yield step._replace(efficiency=_efficiency(step, first))


def project_step(
    shapes: Shapes, given: Assumptions, nodes: int, global_batch: int, negatives: int, option: Option
) -> Step:
    """One step, without its `efficiency`."""
    ranks = nodes * given.gpus
    step = Step(nodes, ranks, global_batch, negatives, option)
    count = global_batch // given.micro_batch
    if count < ranks:
        least = ranks * given.micro_batch
        note = f"does not fit: {count:,} micro-batches for {ranks:,} GPUs; global batch {least:,} would"
        return step._replace(note=note)

    fabric, micro_batches = Fabric(given), -(-count // ranks)
    gather = pool(
        option,
        global_batch,
        negatives,
        shapes.hidden,
        ranks,
        symmetric=given.symmetric,
        pools=given.pools,
    )
    tokens = micro_batches * given.micro_batch * (2 + negatives) * given.mean_length
    flop = tokens * shapes.step_flop(given.mean_length, cached=micro_batches > 1)
    compute_s = flop / (given.peak_tflops * 1e12 * given.utilisation)
    gather_s = (
        fabric.visit(_hops(gather.sent, ranks), nodes)
        if option == "ring"
        else 2 * fabric.all_gather(gather.gathered, nodes, ranks // gather.ranks)
    )
    gradient_s, weights_s = (exchange.seconds for exchange in project_exchanges(shapes, given, nodes))
    flags_s = FLAGS * fabric.all_reduce(FLAG_BYTES, nodes)
    step_s = compute_s + gather_s + gradient_s + weights_s + flags_s
    memory = _memory(shapes, given, ranks, micro_batches, negatives, gather.held, gather.columns)
    total = sum(memory)
    return step._replace(
        note="" if total <= given.memory_gb * 1e9 else "out of memory",
        micro_batches=micro_batches,
        cached=micro_batches > 1,
        compute_s=compute_s,
        gather_s=gather_s,
        gradient_s=gradient_s,
        weights_s=weights_s,
        flags_s=flags_s,
        step_s=step_s,
        communication_share=1 - compute_s / step_s,
        records_per_s=global_batch / step_s,
        gathered_bytes=gather.gathered,
        sent_bytes=gather.sent,
        memory=memory,
        memory_bytes=total,
    )


def project_exchanges(shapes: Shapes, given: Assumptions, nodes: int) -> list[Exchange]:
    """Of ZeRO-2: gradients in fp32, updated weights in bf16. Both are long enough for a ring."""
    ranks, rings = nodes * given.gpus, []
    for what, algorithm, size in (
        ("gradients", ring_all_reduce, FP32 * shapes.lora_parameters),
        ("weights", ring_all_gather, BF16 * shapes.lora_parameters),
    ):
        traffic = algorithm(ranks, size)
        network = traffic.bytes if nodes > 1 else 0.0
        seconds = Fabric(given).ring(traffic, nodes, given.gpus, cards=given.gpus)
        rings.append(Exchange(nodes, ranks, what, size, traffic.bytes, network, seconds))
    return rings


def project_checkpoint(shapes: Shapes, given: Assumptions, nodes: int) -> Checkpoint:
    """DeepSpeed brings each trainable tensor and its two moments together by an all-reduce in fp32; rank 0
    copies them to its host and writes one file."""
    ranks, size = nodes * given.gpus, checkpoint_bytes(shapes.lora_parameters)
    tensors = 3 * shapes.lora_tensors
    return Checkpoint(
        nodes,
        ranks,
        size,
        gather_s=tensors * Fabric(given).all_reduce(size // tensors, nodes),
        copy_s=size / (given.pcie_gbs * 1e9),
        write_s=size / (given.disk_gbs * 1e9),
    )


def _hops(sent: float, ranks: int) -> Traffic:
    """The ring's messages: a lap forward, a lap backward and the gradients' way home."""
    return Traffic(2 * (ranks - 1) + 1, sent)


def _memory(
    shapes: Shapes,
    given: Assumptions,
    ranks: int,
    micro_batches: int,
    negatives: int,
    held: int,
    columns: int,
) -> Memory:
    slots = micro_batches * given.micro_batch
    tokens = given.micro_batch * (2 + negatives) * given.max_length
    own = 2 * slots * (2 + negatives) * shapes.hidden * FP32  # its own embeddings, and their gradient
    block = min(columns, BLOCK // max(slots, shapes.hidden))  # candidates
    return Memory(
        weights=BF16 * shapes.frozen_parameters,
        adapters=sum(state_bytes(shapes.lora_parameters, ranks).values()),
        activations=shapes.activation_bytes(tokens),
        pool=held + own,
        scores=block * (slots * SCORE_BYTES + shapes.hidden * FP32),
        reserve=given.reserve_gb * 1e9,
    )


def _efficiency(step: Step, first: Step) -> float | None:
    if step.records_per_s is None or first.records_per_s is None:
        return None
    return step.records_per_s / step.ranks / (first.records_per_s / first.ranks)
