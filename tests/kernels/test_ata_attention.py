"""`ata_attention` in its portable backends, against the oracle."""

import itertools
import subprocess
import sys
import textwrap

import pytest
import torch
from ata_attention import ata_attention, chunked
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from tests.kernels.oracle import oracle, run, tensors, visible_pairs

BACKENDS = ["chunked", "reference"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that even these tests' sequences are cut into several, at uneven places."""
    monkeypatch.setattr(chunked, "CPU_BLOCK", 60)
    monkeypatch.setattr(chunked, "LIMITED_ROWS", 3)


shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "heads": st.integers(1, 2),
        "group": st.integers(1, 4),
        "n": st.integers(1, 17),
        "d": st.integers(1, 5),
        "seed": st.integers(0, 99),
    }
)
windows = st.none() | st.integers(0, 5) | st.tuples(st.integers(0, 5), st.integers(0, 5))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=60)
@given(shape=shapes, causal=st.booleans(), window=windows, data=st.data())
def test_values_and_gradients_are_the_oracles(backend, shape, causal, window, data):
    """fp64: 1e-9 leaves room for the order of sums and for nothing else. Padding may stand anywhere."""
    q, k, v, d_out, d_sums = tensors(**shape)
    size = shape["batch"] * shape["n"]
    tokens = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    tokens = tokens.view(shape["batch"], shape["n"])
    visible = visible_pairs(shape["n"], causal, window, tokens)
    # What arrives at padding must not matter, whatever it is.
    d_sums_with_noise = d_sums.masked_fill(~tokens[:, None], float("nan"))
    d_sums = d_sums.masked_fill(~tokens[:, None], 0.0)
    if backend == "reference":
        d_sums_with_noise = d_sums
    found = run(
        backend, q, k, v, d_out, d_sums_with_noise, causal=causal, window=window, key_padding_mask=tokens
    )
    for ours, theirs in zip(found, oracle(q, k, v, d_out, d_sums, visible), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    causal=st.booleans(),
    window=windows,
    group=st.integers(1, 3),
    softcap=st.none() | st.just(0.7),
)
def test_packed_is_padded_without_the_padding(backend, lengths, causal, window, group, softcap):
    """Also with sequences of length 0 and 1."""
    longest = max(lengths)
    tokens = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    q, k, v, d_out, d_sums = tensors(len(lengths), 2, group, longest, 4)
    options = {"causal": causal, "window": window, "softcap": softcap}
    padded = run("reference", q, k, v, d_out, d_sums, key_padding_mask=tokens, **options)
    pack = lambda x: x.transpose(1, 2)[tokens]  # noqa: E731
    cu_seqlens = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    packed = run(
        backend,
        *map(pack, (q, k, v, d_out, d_sums)),
        **options,
        cu_seqlens=cu_seqlens,
        max_seqlen=longest,
    )
    for ours, theirs in zip(packed, padded, strict=True):
        torch.testing.assert_close(ours, pack(theirs), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_heads_column_sums_add_up_to_the_number_of_queries(backend):
    q, k, v, *_ = tensors(3, 2, 2, 11, 4, dtype=torch.float32)
    lengths = torch.tensor([11, 4, 1])
    tokens = torch.arange(11)[None] < lengths[:, None]
    sums = ata_attention(q, k, v, key_padding_mask=tokens, backend=backend).column_sums
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums.sum(-1), lengths[:, None].expand(3, 4).float())
    assert (sums.masked_select(~tokens[:, None]) == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_queries_give_nothing(backend, side):
    q, k, v, *_ = tensors(2, 1, 2, 6, 4)
    tokens = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
    tokens = tokens.flip(1) if side == "left" else tokens
    result = ata_attention(q, k, v, causal=True, window=1, key_padding_mask=tokens, backend=backend)
    gone = ~tokens[:, None].expand_as(result.lse)
    assert (result.lse[gone] == float("inf")).all()
    assert result.lse[~gone].isfinite().all()
    assert (result.out[gone] == 0).all()
    assert not result.lse.requires_grad


def test_lse_is_the_logarithm_of_the_softmax_denominator():
    """Also where the scores are so far apart that most of P underflows."""
    q, k, v, *_ = tensors(2, 2, 1, 9, 4, dtype=torch.float32)
    for sharpness in (1.0, 300.0):
        result = ata_attention(q, k, v, scale=sharpness)
        expected = torch.logsumexp(q.double() @ k.double().mT * sharpness, -1)
        torch.testing.assert_close(result.lse.double(), expected, rtol=1e-6, atol=1e-5)
        assert result.out.isfinite().all()


def test_a_constant_added_to_the_column_gradient_changes_no_gradient():
    """fp32: without centring, 1e4 would cost about four of the seven digits; with it the last one or two."""
    q, k, v, d_out, d_sums = tensors(2, 2, 2, 16, 8, dtype=torch.float32)
    plain, shifted = (run("chunked", q, k, v, d_out, d_sums + shift)[2:] for shift in (0.0, 1e4))
    for a, b in zip(plain, shifted, strict=True):
        # d_sums + 1e4 is itself rounded to 1e-3, and that rounding is all that may be left.
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)
    exact = run("chunked", *(x.double() for x in (q, k, v, d_out)), (d_sums + 1e4).double())[2:]
    for a, b in zip(shifted, exact, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"window": (2, 1)}, {"softcap": 0.7, "causal": True}], ids=str
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, options):
    q, k, v, *_ = tensors(2, 1, 2, 5, 3)
    tokens = torch.tensor([[True] * 5, [False, False, True, True, True]])

    def both(q, k, v):
        return ata_attention(q, k, v, key_padding_mask=tokens, backend=backend, **options)[:3:2]

    assert torch.autograd.gradcheck(both, [x.requires_grad_() for x in (q, k, v)])


def test_a_capped_score_is_bounded_and_a_wide_cap_changes_nothing():
    """fp32, where the square of a hidden key's score overflows: its gradient is 0 and not NaN."""
    inputs = tensors(2, 2, 2, 11, 4, dtype=torch.float32)
    plain, wide, narrow = (run("chunked", *inputs, causal=True, softcap=cap) for cap in (None, 1e4, 0.01))
    for ours, theirs in zip(wide, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    assert all(x.isfinite().all() for x in narrow)
    # Scores within 0.01 of each other: attention is all but even over the keys that are seen.
    even = (1 / torch.arange(1.0, 12.0)).flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(narrow[1], even.expand_as(narrow[1]), atol=0, rtol=0.03)


@pytest.mark.parametrize("used", ["out", "column_sums"])
def test_either_result_may_go_unused(used):
    q, k, v, *_ = tensors(2, 2, 2, 7, 4)
    grads = []
    for backend in BACKENDS:
        inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
        result = getattr(ata_attention(*inputs, backend=backend), used)
        (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
        grads.append([x.grad if x.grad is not None else torch.zeros_like(x) for x in inputs])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_without_strides_and_a_second_backward_pass():
    q, k, v, *_ = (x.requires_grad_() for x in tensors(2, 2, 2, 7, 4))
    result = ata_attention(q, k, v)
    loss = (
        result.out.sum() + (result.column_sums[..., :1].expand(-1, -1, 7)).sum()
    )  # both gradients are expanded scalars
    first = torch.autograd.grad(loss, (q, k, v), retain_graph=True)
    second = torch.autograd.grad(loss, (q, k, v))
    expected = ata_attention(q, k, v, backend="reference")
    loss = expected.out.sum() + 7 * expected.column_sums[..., 0].sum()
    for a, b, c in zip(first, second, torch.autograd.grad(loss, (q, k, v)), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


def test_checkpointing_keeps_the_gradient():
    q, k, v, d_out, d_sums = tensors(2, 2, 2, 7, 4)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    plain = run("chunked", q, k, v, d_out, d_sums)[2:]
    out, _, sums, _ = checkpoint(ata_attention, *inputs, use_reentrant=False)
    again = torch.autograd.grad((out, sums), inputs, (d_out, d_sums))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_is_no_worse_than_twice_pytorchs_own(dtype, causal):
    """The measure of the kernel repositories: err(ours) <= 2·err(eager in the same dtype) + one unit in the
    last place.
    """
    inputs = tensors(2, 2, 2, 33, 16, dtype=torch.float32)
    exact = run("reference", *(x.double() for x in inputs), causal=causal)
    q, k, v, d_out, d_sums = (x.to(dtype) for x in inputs)
    ours = run("chunked", q, k, v, d_out, d_sums.float(), causal=causal)
    assert [x.dtype for x in ours] == [dtype, torch.float32, dtype, dtype, dtype]
    for found, eager, true in zip(ours, _eager(q, k, v, d_out, d_sums, causal), exact, strict=True):
        error, baseline = ((x.double() - true).abs().max() for x in (found, eager))
        assert error <= 2 * baseline + torch.finfo(dtype).eps


def _eager(q, k, v, d_out, d_sums, causal):
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(group, 1).mT * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    weights = scores.softmax(-1)
    out, sums = weights @ v.repeat_interleave(group, 1), weights.sum(-2)
    return out, sums, *torch.autograd.grad((out, sums), (q, k, v), (d_out, d_sums))


def test_autocast_does_not_lower_the_precision():
    """Of the backward pass neither, if that is started under it."""
    inputs = tensors(1, 2, 1, 9, 8, dtype=torch.float32)
    plain = run("chunked", *inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run("chunked", *inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_nan_at_padding_harms_nobody():
    inputs = tensors(2, 1, 2, 9, 4)
    tokens = torch.arange(9)[None] < torch.tensor([[9], [5]])
    padding = [~(tokens[:, None, :, None] if x.dim() == 4 else tokens[:, None]) for x in inputs]
    found, expected = (
        run("chunked", *(x.masked_fill(p, filler) for x, p in zip(inputs, padding, strict=True)),
            key_padding_mask=tokens)
        for filler in (float("nan"), 0.0)
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_empty_batches_pass_through():
    q, k, v, *_ = tensors(0, 2, 2, 5, 4)
    assert ata_attention(q, k, v).out.shape == q.shape
    q, k, v, *_ = tensors(2, 2, 2, 0, 4)
    assert ata_attention(q, k, v).column_sums.shape == (2, 4, 0)


def _inputs(**changes):
    q, k, v, *_ = tensors(2, 2, 2, 5, 4, dtype=torch.float32)
    return {"q": q, "k": k, "v": v, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": torch.zeros(2, 5, 4)}, ValueError, r"q has shape \(2, 5, 4\); expected \[B, H, N, D\]"),
        ({"k": torch.zeros(2, 2, 5, 3)}, ValueError, r"k has shape .* and v"),
        (
            {"k": torch.zeros(2, 2, 6, 4), "v": torch.zeros(2, 2, 6, 4)},
            ValueError,
            "only their heads may differ",
        ),
        (
            {"k": torch.zeros(2, 3, 5, 4), "v": torch.zeros(2, 3, 5, 4)},
            ValueError,
            "q has 4 heads and k has 3",
        ),
        ({"v": torch.zeros(2, 2, 5, 4, dtype=torch.float64)}, TypeError, "v is torch.float64"),
        (
            {name: torch.zeros(2, 2, 5, 4, dtype=torch.int64) for name in "qkv"},
            TypeError,
            "q has dtype torch.int64",
        ),
        ({"key_padding_mask": torch.ones(2, 5)}, ValueError, "key_padding_mask is torch.float32"),
        (
            {"key_padding_mask": torch.ones(5, 2, dtype=torch.bool)},
            ValueError,
            r"expected torch.bool \(2, 5\)",
        ),
        ({"window": -1}, ValueError, "window is -1"),
        ({"softcap": 0.0}, ValueError, "softcap is 0.0; expected a number above 0"),
        ({"softcap": 1.0, "backend": "triton"}, NotImplementedError, "Triton kernels do not cap scores"),
        ({"window": 1.5}, ValueError, "window is 1.5"),
        ({name: torch.zeros(2, 2, 5, 0) for name in "qkv"}, ValueError, "head dimension must be 1"),
        ({"window": (1, 2, 3)}, ValueError, r"window is \(1, 2, 3\)"),
        ({"max_seqlen": 5}, ValueError, "max_seqlen belongs to the packed layout"),
        ({"backend": "triton?"}, ValueError, "expected one of auto, triton, chunked, reference"),
    ],
    ids=lambda value: None if not isinstance(value, str) else value[:24],
)
def test_what_does_not_fit_is_named(changes, error, message):
    inputs = _inputs(**changes)
    with pytest.raises(error, match=message):
        ata_attention(inputs.pop("q"), inputs.pop("k"), inputs.pop("v"), **inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cu_seqlens": torch.tensor([0, 6])}, r"cu_seqlens is torch.int64 \(2,\)"),
        ({"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "must rise from 0 to 6"),
        ({"cu_seqlens": torch.tensor([0, 4, 2, 6], dtype=torch.int32)}, "must rise from 0 to 6"),
        (
            {"cu_seqlens": torch.tensor([0, 4, 6], dtype=torch.int32), "max_seqlen": 3},
            "longest sequence has 4",
        ),
        (
            {"cu_seqlens": torch.tensor([0, 6], dtype=torch.int32), "key_padding_mask": torch.ones(1, 6)},
            "two different layouts",
        ),
    ],
)
def test_what_does_not_fit_a_packed_batch_is_named(options, message):
    q, k, v = torch.zeros(6, 4, 8), torch.zeros(6, 2, 8), torch.zeros(6, 2, 8)
    with pytest.raises(ValueError, match=message):
        ata_attention(q, k, v, **options)


def test_memory_at_8192_tokens_is_under_a_twentieth_of_eagers():
    """Forward and backward, as the operating system counts them in a process of its own.

    Eager attention holds P from the forward pass and dP beside it: two matrices for each head at the least.
    """
    script = """
        import pathlib, torch
        from ata_attention import ata_attention

        def highest_so_far():  # in KiB; getrusage would begin with what the parent process had reached
            status = pathlib.Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0])

        def peak(n):
            q, k, v = (torch.randn(1, 4, n, 64, requires_grad=True) for _ in range(3))
            start = highest_so_far()
            out, _, sums, _ = ata_attention(q, k, v)
            torch.autograd.backward((out, sums), (torch.ones_like(out), torch.ones_like(sums)))
            return highest_so_far() - start

        peak(256)  # what the libraries allocate at their first use is not counted
        print(peak(8192))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ours = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert ours < 2 * (4 * 8192 * 8192 * 4 // 1024) / 20


LAYOUTS = ("padded", "masked", "packed")


def _laid_out(layout, device=None):
    """`q, k, v` and how they lie; packed, with five rows behind the last sequence."""
    q, k, v, *_ = (x.to(device) for x in tensors(2, 2, 2, 10, 8))
    if layout == "packed":
        cu_seqlens = torch.tensor([0, 9, 9, 15], dtype=torch.int32, device=device)
        return [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)], {"cu_seqlens": cu_seqlens}
    tokens = torch.arange(10, device=device) < torch.tensor([[10], [6]], device=device)
    return [q, k, v], {"key_padding_mask": tokens} if layout == "masked" else {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunked_compiles_into_one_graph(layout):
    """Packed too, though its lengths are data; rows behind the last sequence get what padding gets."""
    inputs, options = _laid_out(layout)
    inputs = [x.requires_grad_() for x in inputs]

    def gradients(q, k, v):
        result = ata_attention(q, k, v, causal=True, backend="chunked", **options)
        loss = (result.out * result.column_sums[..., None]).square().sum()
        return result.out, result.lse, result.column_sums, *torch.autograd.grad(loss, (q, k, v))

    def forward(q, k, v):
        result = ata_attention(q, k, v, causal=True, backend="chunked", **options)
        return (result.out * result.column_sums[..., None]).square().sum(), *result[:3]

    loss, *found = torch.compile(forward, fullgraph=True, backend="aot_eager")(*inputs)
    found += torch.autograd.grad(loss, inputs)
    if layout == "packed":
        for x, padding in zip(found, (0.0, float("inf"), 0.0, 0.0, 0.0, 0.0), strict=True):
            assert (x[15:] == padding).all()
        options = {"cu_seqlens": options["cu_seqlens"]}
        inputs, found = [x[:15] for x in inputs], [x[:15] for x in found]
    for ours, theirs in zip(found, gradients(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunked_needs_no_values_to_tell_shapes(layout):
    """On the meta device, under autocast too, and as fake tensors."""
    inputs, options = _laid_out(layout)
    shapes = [x.shape for x in chunked._new_results(inputs[0])]
    away, elsewhere = _laid_out(layout, "meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [x.shape for x in ata_attention(*away, **elsewhere)[:3]] == shapes
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x).requires_grad_() for x in inputs]
        result = ata_attention(*fakes, **{name: mode.from_tensor(x) for name, x in options.items()})
        assert [x.shape for x in result[:3]] == shapes
        grads = torch.autograd.grad(result.out.sum() + result.column_sums.sum(), fakes)
        assert [x.shape for x in grads] == [x.shape for x in inputs]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunked_operators_pass_pytorchs_own_check(layout):
    inputs, options = _laid_out(layout)
    arguments = (
        *(x.requires_grad_() for x in inputs),
        options.get("key_padding_mask"),
        options.get("cu_seqlens"),
        0.3,
        2.0,
        None,
        0,
    )
    torch.library.opcheck(chunked._forward, arguments)
