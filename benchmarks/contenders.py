"""Our kernels and their peers, each behind the same three calls."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from ata_attention import ata_attention, flash
from ata_attention.gpu import launch, tiles
from ata_attention.gpu.launch import Batch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.cases import Case, Inputs
from benchmarks.floors import Work

# Keys that the fused kernel may hold; up to which length the operator takes it is the library's own choice.
SHORTEST_FUSED, LONGEST_FUSED = 64, 256

Gives = Literal["out", "out + column sums", "column sums"]
Attend = Callable[[Tensor, Tensor, Tensor], Any]


class Absent(Exception):
    """Why a contender does not take part in a case."""


class Calls(NamedTuple):
    """What is timed: `forward()` without gradient, and `backward(trained())` of what `trained` computed.

    `work` is the forward pass's where it is less than the contender's usual.
    """

    forward: Callable[[], Any]
    trained: Callable[[], Any] | None = None
    backward: Callable[[Any], Any] | None = None
    note: str = ""
    work: Work | None = None


@dataclass(frozen=True)
class Contender:
    """One way to compute attention, column sums, or both.

    Attributes:
        name: as it stands in the tables.
        gives: what it computes.
        work, backward_work: what its algorithm must do at least.
        prepare: its calls for one case; raises `Absent`, with the reason, if it cannot take it.
    """

    name: str
    gives: Gives
    work: Work
    backward_work: Work | None
    prepare: Callable[[Case, Inputs], Calls]

    @property
    def what(self) -> str:
        return f"{self.name}: {self.gives}"


def differentiable(attend: Attend, inputs: Inputs, with_sums: bool = False, note: str = "") -> Calls:
    """The calls of a function that autograd can differentiate."""
    leaves = [x.detach().requires_grad_() for x in inputs[:3]]
    gradients = (inputs.d_out, inputs.d_sums) if with_sums else (inputs.d_out,)

    def forward() -> Any:
        with torch.no_grad():
            return attend(*leaves)

    def backward(outputs: Any) -> Any:
        outputs = outputs if with_sums else (outputs,)
        return torch.autograd.grad(outputs, leaves, gradients, retain_graph=True)

    return Calls(forward, lambda: attend(*leaves), backward, note)


# Ours


class _Attention(torch.autograd.Function):
    """Our plain attention, which is no operator of its own, with autograd's share of the work."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, batch: Batch) -> Tensor:
        out, lse = launch.attention(q, k, v, batch)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.batch = batch
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        # Without a gradient of the column sums these themselves are not looked at.
        return *launch.backward(d_out, None, q, k, v, out, lse, lse, ctx.batch), None


def batch_of(case: Case, inputs: Inputs, *, may_fuse: bool = True) -> Batch:
    """The batch as `launch` takes it; without the longest length it does not try the fused kernel."""
    right = 0 if case.causal else None
    return Batch(None, inputs.cu_seqlens, case.n if may_fuse else None, case.scale, None, right)


def is_fused(case: Case, device: torch.device) -> bool:
    """Whether the operator takes the fused kernel for this case."""
    return tiles.fused_keys(case.n, tiles.table_of(device), case.d, case.dtype) is not None


def our_attention(case: Case, inputs: Inputs) -> Calls:
    batch = batch_of(case, inputs)
    return differentiable(lambda q, k, v: _Attention.apply(q, k, v, batch), inputs)


def our_attention_and_sums(case: Case, inputs: Inputs) -> Calls:
    """The operator, as a model calls it."""
    packed: dict[str, Any] = (
        {} if inputs.cu_seqlens is None else {"cu_seqlens": inputs.cu_seqlens, "max_seqlen": case.n}
    )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"causal": case.causal, "scale": case.scale, "backend": "triton"}
        result = ata_attention(q, k, v, **options, **packed)
        return result.out, result.column_sums

    calls = differentiable(attend, inputs, with_sums=True)
    if is_fused(case, inputs.q.device):
        return calls._replace(note="fused", work=PLAIN)
    return calls._replace(note="two passes")


def our_one_pass(case: Case, inputs: Inputs) -> Calls:
    """The fused kernel, whether or not the operator takes it at this length."""
    _must_be_short(case)
    interpreted = tiles.interpreted()
    keys = max(tiles.INTERPRETED.own if interpreted else SHORTEST_FUSED, 1 << (case.n - 1).bit_length())
    call = partial(launch.fused, *inputs[:3], batch_of(case, inputs), keys)
    try:
        tiles.tile(f"fused_{keys}", tiles.table_of(inputs.q.device), case.d, case.dtype)
    except KeyError as error:
        raise Absent(f"the table has no tile for {keys} keys, d = {case.d}") from error
    return Calls(call)


def our_two_passes(case: Case, inputs: Inputs) -> Calls:
    """What the operator would do if it did not know that the sequences are short."""
    _must_be_short(case)
    return Calls(partial(launch.forward, *inputs[:3], batch_of(case, inputs, may_fuse=False)))


def _must_be_short(case: Case) -> None:
    if case.n > LONGEST_FUSED:
        raise Absent(f"the sequences are too long for the fused kernel: above {LONGEST_FUSED}")


def our_column_sums(case: Case, inputs: Inputs) -> Calls:
    batch = batch_of(case, inputs, may_fuse=False)
    _, lse = launch.attention(*inputs[:3], batch)
    return Calls(partial(launch.column_sums, inputs.q, inputs.k, lse, batch), note="from a known lse")


# Peers


def sdpa(backend: SDPBackend, case: Case, inputs: Inputs) -> Calls:
    if case.layout == "packed":
        raise Absent("it has no packed layout")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(
                q, k, v, is_causal=case.causal, scale=case.scale, enable_gqa=case.heads != case.kv_heads
            )

    return differentiable(attend, inputs)


def torch_varlen(case: Case, inputs: Inputs) -> Calls:
    if inputs.cu_seqlens is None:
        raise Absent("it has only the packed layout")
    varlen = module("torch.nn.attention.varlen")
    bounds, n = inputs.cu_seqlens, case.n
    # A window is all that it knows of causality.
    options = {"scale": case.scale, "window_size": (-1, 0 if case.causal else -1), **flash.GROUPED}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return varlen.varlen_attn(q, k, v, bounds, bounds, n, n, **options)

    return differentiable(attend, inputs)


def flash_attn(load: Callable[[], Any], case: Case, inputs: Inputs, *, hopper: bool = False) -> Calls:
    """flash-attn 2 and 3, as packages or builds of `kernels`: their functions have the same names and
    arguments. Those for Hopper would end the process on another GPU."""
    if hopper and inputs.q.is_cuda and flash.capability(inputs.q.device) != flash.HOPPER:
        raise Absent("it is for compute capability 9.0 alone")
    build = load()
    options = {"softmax_scale": case.scale, "causal": case.causal}
    bounds, n = inputs.cu_seqlens, case.n

    def out_of(result: Any) -> Any:
        return result[0] if isinstance(result, tuple) else result  # some versions of 3 add the lse

    def packed(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return out_of(build.flash_attn_varlen_func(q, k, v, bounds, bounds, n, n, **options))

    def padded(q: Tensor, k: Tensor, v: Tensor) -> Any:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # as it takes them, and as they lie in memory
        return out_of(build.flash_attn_func(q, k, v, **options)).transpose(1, 2)

    return differentiable(padded if bounds is None else packed, inputs, note=build.__name__)


def flex_attention(case: Case, inputs: Inputs) -> Calls:
    flex = module("torch.nn.attention.flex_attention")
    # A cached compilation would count towards dynamo's limit, and further shapes would run uncompiled.
    torch._dynamo.reset()
    compiled = torch.compile(flex.flex_attention, dynamic=False, fullgraph=True)
    mask = _block_mask(flex, case, inputs)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Any:
        if case.layout == "packed":
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        # Donated buffers would forbid that the backward pass is timed more than once.
        with torch._functorch.config.patch(donated_buffer=False):
            out = compiled(q, k, v, block_mask=mask, scale=case.scale, enable_gqa=case.heads != case.kv_heads)
        return out[0].transpose(0, 1) if case.layout == "packed" else out

    return differentiable(attend, inputs)


def _block_mask(flex: Any, case: Case, inputs: Inputs) -> Any:
    """The mask as FlexAttention takes it; None where every query attends to every key."""
    if inputs.cu_seqlens is None and not case.causal:
        return None
    rows = case.n if inputs.cu_seqlens is None else case.tokens
    sequence = torch.zeros(rows, dtype=torch.int32, device=inputs.q.device)
    if inputs.cu_seqlens is not None:
        places = torch.arange(rows, device=inputs.q.device)
        sequence = torch.bucketize(places, inputs.cu_seqlens[1:], right=True, out_int32=True)

    def attends(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = sequence[query] == sequence[key]
        return same & (query >= key) if case.causal else same

    return flex.create_block_mask(attends, None, None, rows, rows, device=inputs.q.device)


def eager(case: Case, inputs: Inputs) -> Calls:
    """The attention matrix in memory, as transformers' eager attention computes it."""
    if case.layout == "packed":
        raise Absent("it has no packed layout")
    group = case.heads // case.kv_heads
    hidden = None
    if case.causal:
        hidden = torch.ones(case.n, case.n, dtype=torch.bool, device=inputs.q.device).triu(1)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if group > 1:
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        scores = q @ k.mT * case.scale
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        weights = scores.softmax(-1, dtype=torch.float32)
        return weights.to(v.dtype) @ v, weights.sum(-2)

    return differentiable(attend, inputs, with_sums=True)


def flash_colreduce(case: Case, inputs: Inputs) -> Calls:
    if case.layout == "packed":
        raise Absent("it has no packed layout")
    reduce = module("flash_colreduce").flash_colreduce
    group = case.heads // case.kv_heads
    keys = inputs.k.repeat_interleave(group, dim=1) if group > 1 else inputs.k
    call = partial(reduce, inputs.q, keys, "sum", is_causal=case.causal, scale=case.scale)
    return Calls(call, note="keys repeated beforehand: it knows no grouped heads" if group > 1 else "")


def module(name: str) -> Any:
    """Imports what may not be there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"not installed: {error}") from error


def first_of(*loads: Callable[[], Any]) -> Any:
    """What the first gives that is there."""
    reasons = []
    for load in loads:
        try:
            return load()
        except Absent as error:
            reasons.append(str(error))
    raise Absent("; ".join(reasons))


def of_kernels(repository: str, version: int) -> Any:
    """A build of the `kernels` package that was fetched before."""
    try:
        found = flash.cached_kernel(repository, version)
    except flash.NotFetched as error:
        raise Absent(f"not fetched: {error}") from error
    if found is None:
        raise Absent("not installed: kernels")
    return found


PLAIN, PLAIN_BACKWARD = Work(2, 1), Work(5, 1)

OUR_OUT = Contender("ours", "out", PLAIN, Work(7, 2), our_attention)
OUR_SUMS = Contender("ours", "out + column sums", Work(3, 2), Work(8, 2), our_attention_and_sums)
OUR_ONE_PASS = Contender("ours, one pass", "out + column sums", PLAIN, None, our_one_pass)
OUR_TWO_PASSES = Contender("ours, two passes", "out + column sums", Work(3, 2), None, our_two_passes)
OUR_COLUMN_SUMS = Contender("ours, second pass", "column sums", Work(1, 1), None, our_column_sums)
OURS = (OUR_SUMS, OUR_OUT, OUR_ONE_PASS, OUR_TWO_PASSES, OUR_COLUMN_SUMS)

SDPA_FLASH = Contender(
    "torch SDPA, flash", "out", PLAIN, PLAIN_BACKWARD, partial(sdpa, SDPBackend.FLASH_ATTENTION)
)
SDPA_CUDNN = Contender(
    "torch SDPA, cuDNN", "out", PLAIN, PLAIN_BACKWARD, partial(sdpa, SDPBackend.CUDNN_ATTENTION)
)
VARLEN = Contender("torch varlen_attn", "out", PLAIN, PLAIN_BACKWARD, torch_varlen)


def _flash(name: str, package: str, kernel: tuple[str, int], *, hopper: bool = False) -> Contender:
    load = partial(first_of, partial(module, package), partial(of_kernels, *kernel))
    return Contender(name, "out", PLAIN, PLAIN_BACKWARD, partial(flash_attn, load, hopper=hopper))


FLASH_ATTN = _flash("flash-attn", "flash_attn", flash.KERNELS_FA2)
FLASH_ATTN_3 = _flash("flash-attn 3", "flash_attn_interface", flash.KERNELS_FA3, hopper=True)
FLEX = Contender("FlexAttention", "out", PLAIN, PLAIN_BACKWARD, flex_attention)
EAGER = Contender("eager", "out + column sums", PLAIN, PLAIN_BACKWARD, eager)
COLREDUCE = Contender("flash-colreduce", "column sums", Work(2, 2), None, flash_colreduce)
OF_TORCH = (SDPA_FLASH, SDPA_CUDNN, VARLEN, FLEX)
PEERS = (SDPA_CUDNN, SDPA_FLASH, VARLEN, FLASH_ATTN_3, FLASH_ATTN, COLREDUCE, FLEX, EAGER)
BY_WHAT = {contender.what: contender for contender in (*OURS, *PEERS)}
