"""The Triton kernels beside the definition in fp64: on the GPU if there is one, else interpreted."""

import itertools
from functools import partial

import torch
from hypothesis import strategies as st

from tests.kernels.oracle import run, tensors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# fp32 against fp64. Sums of some hundred products of about 1, each rounded to 6e-8.
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}

triton = partial(run, "triton")
reference = partial(run, "reference")

windows = st.none() | st.integers(0, 20) | st.tuples(st.integers(0, 20), st.integers(0, 20))


def on_device(*inputs, dtype=torch.float32):
    return [x.to(DEVICE, dtype) for x in inputs]


def assert_equal_to_reference(inputs, **options):
    """All results and gradients of fp32 inputs, against fp64."""
    found = triton(*on_device(*inputs), **options)
    expected = reference(*on_device(*inputs, dtype=torch.float64), **options)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, **TOLERANCE)


def packed_tensors(lengths, heads, group, d, seed=0):
    """`q, k, v, d_out, d_sums` and `cu_seqlens` of a packed batch."""
    *inputs, d_sums = (x[0].transpose(0, 1) for x in tensors(1, heads, group, sum(lengths), d, seed))
    cu_seqlens = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=DEVICE)
    return [*inputs, d_sums], cu_seqlens


def fill_padding(inputs, tokens, value):
    """`inputs`, `[B, H, N]` or `[B, H, N, D]`, with `value` where there is no token."""
    outside = ~tokens[:, None]
    return [x.masked_fill(outside[..., None] if x.dim() == 4 else outside, value) for x in inputs]
