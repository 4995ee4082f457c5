"""Whether the kernels compute what they should, on the device itself and with the tiles that it uses.

The references are those of `tests/kernels`, and so is the rule for half precision: an error of at most twice
that of PyTorch's own attention in the same dtype, and one unit in the last place. The column sums are fp32
whatever the inputs are, and have a narrower rule of their own.
"""

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ata_attention import ata_attention
from ata_attention.masks import Visibility
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import contenders
from benchmarks.cases import Case, row_of
from benchmarks.table import Row
from tests.kernels import oracle

# Of the column sums, relative to 1 + the largest: some hundred probabilities, each off by a few 1e-7.
SUMS_TOLERANCE = 1e-4
NAMES = ("out", "column sums", "dq", "dk", "dv")
PLAIN = ("plain dq", "plain dk", "plain dv")


def check(case: Case, device: torch.device) -> Row:
    """A row with the largest error, forward and in both backward passes, as a share of what is allowed.

    Memory that a kernel forgets to write is NaN, and so is whatever stands at padding. A second run must give
    the same bits.
    """
    group, packed = case.heads // case.kv_heads, case.layout == "packed"
    shape = (1, case.tokens) if packed else (len(case.lengths), case.n)
    inputs = oracle.tensors(shape[0], case.kv_heads, group, shape[1], case.d)
    inputs = tuple(x.to(device, case.dtype) for x in inputs)
    tokens = _tokens(case, device)
    visible = _visible(case, tokens, device)
    with _poisoned():
        found, again = (_ours(case, inputs, tokens) for _ in range(2))
    expected = _reference([x.double() for x in inputs], visible, tokens)
    baseline = _reference(inputs, visible, tokens)
    names, eps = (*NAMES, *PLAIN), torch.finfo(case.dtype).eps
    shares = {
        name: _share(name, ours, true, theirs, eps)
        for name, ours, true, theirs in zip(names, found, expected, baseline, strict=True)
    }
    worst = max(shares, key=shares.__getitem__)
    kind = "fused" if contenders.is_fused(case, device) else "two passes"
    row = row_of(case, contenders.OUR_SUMS.what, "check", f"{kind}; the largest: {worst}")
    if math.isfinite(shares[worst]) and not all(map(torch.equal, found, again)):  # NaN is not equal to itself
        return row._replace(ratio=math.inf, note=f"{kind}; wrong: two runs gave different bits")
    return row._replace(ratio=shares[worst])


def _share(name: str, found: Tensor, expected: Tensor, baseline: Tensor, eps: float) -> float:
    error, theirs = ((x.double() - expected).abs().max().item() for x in (found, baseline))
    if name == "column sums":
        share = error / (SUMS_TOLERANCE * (1 + expected.abs().max().item()))
    else:
        share = error / (2 * theirs + eps)
    return share if math.isfinite(share) else math.inf


def _ours(case: Case, inputs: Sequence[Tensor], tokens: Tensor) -> list[Tensor]:
    """Results and gradients in the padded layout; then the gradients without one through the column sums."""
    dirty = [x.masked_fill(_outside(x, tokens), float("nan")) for x in inputs]
    dirty[-1] = dirty[-1].float()
    options: dict[str, Any] = {"causal": case.causal, "window": case.window}
    if case.layout == "packed":
        dirty = [x[0].transpose(0, 1) for x in dirty]
        bounds = [0, *itertools.accumulate(case.lengths)]
        options["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32, device=tokens.device)
        options["max_seqlen"] = case.n
    elif not tokens.all():
        options["key_padding_mask"] = tokens
    results = list(oracle.run("triton", *dirty, **options))
    q, k, v = (x.detach().requires_grad_() for x in dirty[:3])
    out = ata_attention(q, k, v, backend="triton", **options).out
    results += torch.autograd.grad(out, (q, k, v), dirty[3])
    return [x.detach().transpose(0, 1)[None] for x in results] if case.layout == "packed" else results


def _reference(inputs: Sequence[Tensor], visible: Tensor, tokens: Tensor) -> list[Tensor]:
    """What `_ours` should give, by PyTorch's attention in the dtype of the inputs."""
    q, k, v, d_out, d_sums = (x.masked_fill(_outside(x, tokens), 0.0) for x in inputs)
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(
        True
    )  # in this dtype, not in fp32 and then rounded
    try:
        with sdpa_kernel(SDPBackend.MATH):
            both = oracle.oracle(q, k, v, d_out, d_sums, visible)
            plain = oracle.oracle(q, k, v, d_out, torch.zeros_like(d_sums), visible)
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)
    return [*both, *plain[2:]]


def _tokens(case: Case, device: torch.device) -> Tensor:
    """Bool `[B, N]`, or `[1, T]` packed: where there is a token."""
    if case.layout == "packed":
        return torch.ones(1, case.tokens, dtype=torch.bool, device=device)
    rows = torch.arange(case.n, device=device)
    tokens = rows < torch.tensor(case.lengths, device=device)[:, None]
    return tokens & (rows % 7 != 3) if case.holes else tokens


def _visible(case: Case, tokens: Tensor, device: torch.device) -> Tensor:
    """Bool `[B, N, N]`: whether the query of the row sees the key of the column."""
    whole = slice(0, tokens.shape[1])
    visible = Visibility.of(case.causal, case.window).mask(whole, whole, device)
    if case.layout == "packed":
        lengths = torch.tensor(case.lengths, device=device)
        sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        visible = visible & (sequence[:, None] == sequence)
    return visible & tokens[:, None, :] & tokens[:, :, None]


def _outside(x: Tensor, tokens: Tensor) -> Tensor:
    """`tokens` negated, for `x [B, H, N]` or `[B, H, N, D]`."""
    outside = ~tokens[:, None]
    return outside if x.dim() == 3 else outside[..., None]


@contextmanager
def _poisoned() -> Iterator[None]:
    """Inside, memory is NaN until it is written."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
