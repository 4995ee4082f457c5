"""The Triton kernels, against the definition in fp64: on the GPU if there is one, else interpreted."""

import math

import pytest
import torch
from ata_attention import ata_attention, interface
from ata_attention.gpu import launch, ops, tiles
from ata_attention.masks import Visibility
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.comparison import (
    DEVICE,
    TOLERANCE,
    assert_equal_to_reference,
    fill_padding,
    on_device,
    packed_tensors,
    reference,
    triton,
    windows,
)
from tests.kernels.oracle import eager_attention, run, tensors

pytestmark = pytest.mark.usefixtures("uninitialised_memory_is_nan")


@pytest.mark.timeout(1200)  # the interpreter takes some tenths of a second for each
@settings(deadline=None, max_examples=500)
@given(
    lengths=st.lists(st.sampled_from([0, 0, 1, 2, 7, 16, 19]), min_size=1, max_size=3)
    | st.lists(st.integers(0, 3), min_size=4, max_size=6),
    tile=st.sampled_from([(16, 16), (32, 16), (16, 32)]),
    ahead=st.booleans(),
    whole=st.sampled_from([0, 32]),
    causal=st.booleans(),
    window=windows,
    group=st.sampled_from([1, 1, 2]),
    longest_is_known=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_packed_layouts(lengths, tile, ahead, whole, causal, window, group, longest_is_known, seed):
    """With empty rows. A known longest length leads to the fused kernel, an unknown one to two passes."""
    inputs, cu_seqlens = packed_tensors(lengths, 1, group, 32, seed)
    longest = max(lengths) if longest_is_known else None
    options = {"causal": causal, "window": window, "cu_seqlens": cu_seqlens, "max_seqlen": longest}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "INTERPRETED", tiles.Tile(*tile, 1, 1, ahead, whole))
        assert_equal_to_reference(inputs, **options)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": (20, 9)}], ids=str)
@pytest.mark.parametrize("layout", ["packed", "masked"])
def test_walking_twice(layout, options, monkeypatch):
    """As the backward pass of heads beyond 128 does in half precision."""
    asked = []
    monkeypatch.setattr(launch, "walks_twice", lambda q: asked.append(q.shape[-1]) or True)
    if layout == "packed":
        inputs, cu_seqlens = packed_tensors([33, 0, 5, 16], 1, 2, 32)
        options = {"cu_seqlens": cu_seqlens, **options}
    else:
        tokens = torch.arange(40) >= torch.tensor([[0], [13]])
        inputs = fill_padding(tensors(2, 1, 2, 40, 32), tokens, 0.0)
        options = {"key_padding_mask": tokens.to(DEVICE), **options}
    assert_equal_to_reference(inputs, **options)
    assert asked == [32, 32]


def test_who_walks_twice():
    q = torch.zeros(1, 1, 1, 256)
    assert launch.walks_twice(q.bfloat16())
    assert launch.walks_twice(q[..., :136].half())
    assert not launch.walks_twice(q[..., :128].half())
    assert not launch.walks_twice(q)


@pytest.mark.parametrize("d", [8, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("max_seqlen", [19, None], ids=["fused", "two passes"])
def test_head_dimensions(d, max_seqlen):
    inputs, cu_seqlens = packed_tensors([19, 3], 1, 2, d)
    assert_equal_to_reference(inputs, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen)


@pytest.mark.parametrize(("heads", "key_heads"), [(32, 8), (12, 12), (8, 1), (28, 4)])
def test_grouped_queries(heads, key_heads):
    inputs, cu_seqlens = packed_tensors([9], key_heads, heads // key_heads, 32)
    assert_equal_to_reference(inputs, cu_seqlens=cu_seqlens, causal=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("max_seqlen", [60, None], ids=["fused", "two passes"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_no_worse_than_twice_pytorchs_own(dtype, max_seqlen, causal):
    """err(ours) <= 2·err(PyTorch's attention in the same dtype) + one unit in the last place."""
    inputs, cu_seqlens = packed_tensors([60], 1, 2, 64)
    rounded = on_device(*inputs, dtype=dtype)
    *rounded[:4], d_sums = rounded
    options = {"causal": causal, "cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen}
    ours = triton(*rounded[:4], d_sums.float(), **options)
    assert [x.dtype for x in ours] == [dtype, torch.float32, dtype, dtype, dtype]
    exact = reference(*(x.double() for x in rounded), **options)
    eager = eager_attention(*rounded, causal)
    for found, plain, true in zip(ours, eager, exact, strict=True):
        error, baseline = ((x.double() - true).abs().max().item() for x in (found, plain))
        assert error <= 2 * baseline + torch.finfo(dtype).eps


def test_column_sums_add_up_to_the_number_of_queries():
    lengths = [40, 0, 1, 17]
    inputs, cu_seqlens = packed_tensors(lengths, 2, 2, 32)
    sums = ata_attention(*on_device(*inputs[:3]), cu_seqlens=cu_seqlens, backend="triton").column_sums
    assert sums.dtype == torch.float32
    for part, length in zip(sums.split(lengths), lengths, strict=True):
        torch.testing.assert_close(part.sum(0), torch.full((4,), float(length), device=DEVICE))


def test_the_last_causal_key_is_seen_by_one_query():
    """So its column sum is a single probability, that of the last query."""
    inputs, cu_seqlens = packed_tensors([21], 1, 1, 32)
    q, k, v = on_device(*inputs[:3])
    result = ata_attention(q, k, v, causal=True, cu_seqlens=cu_seqlens, backend="triton")
    score = (q[-1, 0] @ k[-1, 0]) * 32**-0.5
    torch.testing.assert_close(result.column_sums[-1, 0], torch.exp(score - result.lse[-1, 0]), **TOLERANCE)


def test_a_constant_added_to_the_column_gradient_changes_no_gradient():
    inputs, cu_seqlens = packed_tensors([33, 5], 1, 2, 32)
    *inputs, d_sums = on_device(*inputs)
    plain, shifted = (triton(*inputs, d_sums + shift, cu_seqlens=cu_seqlens)[2:] for shift in (0.0, 1e4))
    for a, b in zip(plain, shifted, strict=True):
        # d_sums + 1e4 is itself rounded to 1e-3; without centring the error would be about 1e4 · 1e-6 · √n.
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


def test_short_sequences_take_one_pass_and_long_ones_two(monkeypatch):
    passes = []
    for name in ("attention", "column_sums", "fused"):
        function = getattr(launch, name)
        monkeypatch.setattr(
            launch, name, lambda *a, n=name, f=function, **o: (passes.append(n), f(*a, **o))[1]
        )
    longest = tiles.FUSED_MAX_SEQLEN
    for n, dtype in ((longest, torch.bfloat16), (longest + 1, torch.bfloat16), (longest, torch.float32)):
        passes.clear()
        q, k, v, *_ = on_device(*tensors(1, 1, 1, n, 32), dtype=dtype)
        result = ata_attention(q, k, v, backend="triton")
        # On a chip fp32 never fits; the interpreter's has no end.
        fits = n == longest and (dtype.itemsize == 2 or tiles.interpreted())
        assert passes == (["fused"] if fits else ["attention", "column_sums"])
        expected = ata_attention(*(x.double() for x in (q, k, v)), backend="reference").column_sums
        torch.testing.assert_close(result.column_sums.double(), expected, **TOLERANCE)


def test_unused_column_sums_cost_nothing(monkeypatch):
    """The gradient of `out` alone takes plain attention's path, and is PyTorch's."""
    given_to = []
    for name in ("backward_dq", "backward_dkv"):
        function = getattr(launch, name)
        monkeypatch.setattr(
            launch, name, lambda *a, f=function: (given_to.append(a[1] is not None), f(*a))[1]
        )
    q, k, v = (x.requires_grad_() for x in on_device(*tensors(1, 2, 1, 20, 32)[:3]))
    ours = torch.autograd.grad(ata_attention(q, k, v, backend="triton").out.square().sum(), (q, k, v))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v).square().sum()
    for a, b in zip(ours, torch.autograd.grad(theirs, (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)
    assert given_to == [False, False]


def test_column_sums_may_be_all_that_is_used():
    q, k, v = (x.requires_grad_() for x in on_device(*tensors(1, 2, 1, 20, 32)[:3]))
    weights = torch.linspace(-1, 1, 20, device=DEVICE)
    grads = [
        torch.autograd.grad((ata_attention(q, k, v, backend=name).column_sums * weights).sum(), (q, k))
        for name in ("triton", "reference")
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_any_strides():
    """As a transformer's projections have them, and gradients without any, as a sum has them."""
    base = on_device(*(x.transpose(1, 2).contiguous() for x in tensors(2, 2, 2, 20, 32)[:3]))
    results = []
    for made_dense in (False, True):
        q, k, v = (x.transpose(1, 2) for x in base)
        q, k, v = (x.contiguous() if made_dense else x for x in (q, k, v))
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        result = ata_attention(q, k, v, backend="triton")
        assert result.out.stride() == q.stride()
        loss = result.out.sum() + result.column_sums[..., :1].expand(-1, -1, 20).sum()
        results.append([result.out, result.column_sums, *torch.autograd.grad(loss, (q, k, v))])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    column = base[0].transpose(1, 2).mT.contiguous().mT  # the head dimension is not the contiguous one
    assert column.stride(-1) != 1
    again = ata_attention(column, *(x.transpose(1, 2) for x in base[1:]), backend="triton")
    assert torch.equal(again.out, results[0][0])


def test_cu_seqlens_may_be_strided():
    inputs, cu_seqlens = packed_tensors([9, 0, 11], 1, 1, 32)
    spaced = torch.stack([cu_seqlens, torch.full_like(cu_seqlens, 5)], 1)[:, 0]
    assert not spaced.is_contiguous()
    assert_equal_to_reference(inputs, cu_seqlens=spaced)


@pytest.mark.parametrize("window", [2**31 - 1, (2**40, 0), (3, 2**62)], ids=str)
def test_windows_wider_than_any_sequence(window):
    inputs, cu_seqlens = packed_tensors([20], 1, 1, 32)
    assert_equal_to_reference(inputs, window=window, cu_seqlens=cu_seqlens)


def test_a_hundred_runs_give_the_same_bits():
    inputs, cu_seqlens = packed_tensors([300, 17, 1] if DEVICE == "cuda" else [17], 1, 1, 32)
    inputs = on_device(*inputs)
    first = triton(*inputs, cu_seqlens=cu_seqlens)
    for _ in range(99):
        again = triton(*inputs, cu_seqlens=cu_seqlens)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_long_sequences_among_short_ones(monkeypatch):
    """Of 0, 1, an odd number and 8,192 tokens, with tiles that an interpreter can bear."""
    if DEVICE == "cpu":
        monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(1024, 1024, 1, 1))
    inputs, cu_seqlens = packed_tensors([0, 8192, 1, 777], 1, 1, 32)
    inputs = on_device(*inputs)
    found = triton(*inputs, cu_seqlens=cu_seqlens)
    for ours, theirs in zip(found, run("chunked", *inputs, cu_seqlens=cu_seqlens), strict=True):
        # Column sums of 8,192 terms, in another order.
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_a_sequence_of_32768_tokens(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(1024, 1024, 1, 1))
    inputs, cu_seqlens = packed_tensors([5, 32768], 1, 1, 32)
    q, k, v = on_device(*inputs[:3])
    found, expected = (
        ata_attention(q, k, v, window=(64, 4096), cu_seqlens=cu_seqlens, backend=name)
        for name in ("triton", "chunked")
    )
    torch.testing.assert_close(found.out, expected.out, **TOLERANCE)
    torch.testing.assert_close(found.column_sums, expected.column_sums, atol=2e-4, rtol=2e-4)


def test_empty_batches():
    for shape in ((0, 2, 5, 32), (2, 2, 0, 32)):
        q, k, v = (torch.zeros(shape, device=DEVICE, requires_grad=True) for _ in range(3))
        result = ata_attention(q, k, v, backend="triton")
        assert result.column_sums.shape == shape[:3]
        (result.out.sum() + result.column_sums.sum()).backward()
        assert q.grad.shape == shape
    q = torch.zeros(0, 2, 32, device=DEVICE)
    for lengths in ([0], [0, 0, 0]):
        cu_seqlens = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
        assert ata_attention(q, q, q, cu_seqlens=cu_seqlens, backend="triton").lse.shape == (0, 2)


@pytest.mark.parametrize("layout", ["padded", "masked", "packed"])
def test_opcheck(layout):
    """Schema, fake implementation, autograd registration and AOT dispatch, as PyTorch checks its own."""
    q, k, v, *_ = (x.requires_grad_() for x in on_device(*tensors(2, 1, 1, 9, 32)))
    tokens = torch.arange(9, device=DEVICE)[None] < torch.tensor([[9], [5]], device=DEVICE)
    if layout == "packed":
        q, k, v = (x.detach().transpose(1, 2).flatten(0, 1).requires_grad_() for x in (q, k, v))
        cu_seqlens = torch.tensor([0, 12, 12, 18], dtype=torch.int32, device=DEVICE)
        arguments = (q, k, v, None, cu_seqlens, None, 0.2, None, 0)
    else:
        arguments = (q, k, v, tokens if layout == "masked" else None, None, 9, 0.2, 3, 4)
    torch.library.opcheck(ops._forward, arguments)
    out, lse, sums = (x.detach() for x in ops._forward(*arguments))
    plain = [x.detach() for x in arguments[:3]]
    for d_sums in (torch.ones_like(sums), None):
        torch.library.opcheck(
            ops._backward, (torch.ones_like(out), d_sums, *plain, out, lse, sums, *arguments[3:])
        )


@pytest.mark.parametrize("packed", [False, True])
def test_compiles_into_one_graph(packed):
    """Forward and backward; inductor on the GPU, elsewhere everything of it but its code generator."""
    inputs, cu_seqlens = packed_tensors([12, 8], 1, 2, 32)
    inputs = inputs if packed else tensors(2, 1, 2, 20, 32)
    q, k, v = (x.requires_grad_() for x in on_device(*inputs[:3]))
    options = {"cu_seqlens": cu_seqlens, "max_seqlen": 12} if packed else {}

    def loss(q, k, v):
        result = ata_attention(q, k, v, causal=True, backend="triton", **options)
        return (result.out * result.column_sums[..., None]).square().sum()

    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for a, b in zip(
        torch.autograd.grad(compiled(q, k, v), (q, k, v)),
        torch.autograd.grad(loss(q, k, v), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_nothing_waits_for_the_device(monkeypatch):
    """On tensors that say they are on a GPU and have no values, whatever reads a value fails."""
    monkeypatch.setattr(ops, "refusal", lambda *_: None)
    with FakeTensorMode():
        q = torch.empty(34, 4, 32, device="cuda")
        cu_seqlens = torch.empty(4, dtype=torch.int32, device="cuda")
        result = ata_attention(q, q, q, cu_seqlens=cu_seqlens, max_seqlen=12)
        assert result.backend == "triton"
        x = torch.empty(2, 4, 17, 32, device="cuda")
        tokens = torch.empty(2, 17, dtype=torch.bool, device="cuda")
        assert ata_attention(x, x, x, key_padding_mask=tokens).backend == "triton"


@pytest.mark.parametrize(
    ("q", "options", "message"),
    [
        (torch.zeros(1, 1, 4, 32, dtype=torch.float64), {}, "q has dtype torch.float64"),
        (torch.zeros(1, 1, 4, 257), {}, "the head dimension is above 256"),
        (torch.zeros(1, 1, 4, 32), {"scale": -1.0}, "scale is not between 1e-12 and 1e.06"),
        (torch.zeros(1, 1, 4, 32), {"scale": float("nan")}, "scale is not between"),
        (torch.zeros(1, 1, 4, 32), {"scale": 1e-30}, "scale is not between"),
    ],
    ids=["fp64", "257", "negative", "nan", "tiny"],
)
def test_what_the_kernels_cannot_take_is_refused_by_name(q, options, message):
    q = q.to(DEVICE)
    with pytest.raises(NotImplementedError, match=f"{message}.*use backend='auto' or 'chunked'"):
        ata_attention(q, q, q, backend="triton", **options)
    if DEVICE == "cuda":
        with pytest.warns(UserWarning, match=message):
            assert ata_attention(q, q, q, **options).backend == "chunked"


def test_a_cpu_is_refused_unless_interpreted(monkeypatch):
    monkeypatch.setattr(tiles, "interpreted", lambda: False)
    q = torch.zeros(1, 1, 4, 32)
    with pytest.raises(NotImplementedError, match="q is on cpu; the Triton kernels need an NVIDIA GPU"):
        ata_attention(q, q, q, backend="triton")
    assert ata_attention(q, q, q).backend == "chunked"


def test_an_old_gpu_takes_the_portable_backend_and_says_why(monkeypatch):
    monkeypatch.setattr(tiles, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.warns(UserWarning, match=r"portable backend: the GPU has compute capability \(7, 5\)"):
        assert interface._chosen("auto", torch.device("cuda"), torch.float32, None) == "chunked"


def test_visibility_reaches_the_kernels_as_it_is():
    """The operator's own arguments: what autograd replays is what was asked for."""
    q, k, v, *_ = on_device(*tensors(1, 1, 1, 40, 32))
    found = ops.padded(q, k, v, None, 0.1, Visibility(3, 7))
    expected = ata_attention(q, k, v, scale=0.1, window=(3, 7), backend="reference")
    for ours, theirs in zip(found, expected, strict=False):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_the_largest_head_dimension_is_that_of_the_tables():
    assert max(tiles.HEAD_DIMS) == interface.LARGEST_HEAD_DIM


def _packed_without_checks(inputs, cu_seqlens, max_seqlen):
    """As on a GPU, where nobody looks at the values of `cu_seqlens`; all results and gradients."""
    *inputs, d_out, d_sums = inputs
    q, k, v = (x.detach().requires_grad_() for x in inputs)
    out, lse, sums = ops.packed(q, k, v, cu_seqlens, max_seqlen, 0.2, Visibility(None, None))
    return out, lse, sums, *torch.autograd.grad((out, sums), (q, k, v), (d_out, d_sums))


@pytest.mark.parametrize("max_seqlen", [9, None], ids=["fused", "two passes"])
@pytest.mark.parametrize("lengths", [[9, 6], [9, 0, 31], []], ids=str)
def test_rows_behind_the_last_sequence_get_what_padding_gets(lengths, max_seqlen):
    """A buffer may be longer than what is in it. A tile's length, and more, of such rows."""
    inputs, cu_seqlens = packed_tensors([*lengths, 5, 40], 1, 2, 32)
    dtype = torch.bfloat16 if max_seqlen else torch.float32
    *inputs, d_sums = on_device(*inputs, dtype=dtype)
    longest = max_seqlen and max(lengths, default=0)
    found = _packed_without_checks([*inputs, d_sums.float()], cu_seqlens[:-2].contiguous(), longest)
    for x, padding in zip(found, (0.0, float("inf"), 0.0, 0.0, 0.0, 0.0), strict=True):
        assert (x[sum(lengths) :] == padding).all()
    if lengths:
        alone = [x[: sum(lengths)] for x in (*inputs, d_sums.float())]
        for x, y in zip(found, _packed_without_checks(alone, cu_seqlens[:-2], longest), strict=True):
            assert torch.equal(x[: sum(lengths)], y)


def test_an_understated_longest_length_is_no_number():
    """Whoever says 16 and has a sequence beyond what was prepared for gets NaN for it, and for it alone."""
    lengths = [tiles.FUSED_MAX_SEQLEN, 12, 70, 40]
    inputs, cu_seqlens = packed_tensors(lengths, 1, 1, 32)
    *inputs, d_sums = on_device(*inputs, dtype=torch.bfloat16)
    found = _packed_without_checks([*inputs, d_sums.float()], cu_seqlens, 12)
    right = _packed_without_checks([*inputs, d_sums.float()], cu_seqlens, None)
    keys = tiles.fused_keys(12, tiles.table_of(found[0].device), 32, torch.bfloat16)
    wrong = [length > keys for length in lengths]
    assert any(wrong)
    assert not all(wrong)
    for name, x, y in zip(("out", "lse", "sums", "dq", "dk", "dv"), found, right, strict=True):
        for is_wrong, part, expected in zip(wrong, x.split(lengths), y.split(lengths), strict=True):
            if is_wrong:
                assert part.isnan().all(), name
            else:
                # The fused kernel's sums are those of unrounded weights as well; out is bf16.
                torch.testing.assert_close(part, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("magnitude", [9_000, 100_000])
def test_large_scores(magnitude):
    """Scores that share a large part, exact in fp32, so that all error is of what is done with them.

    The second pass has a normaliser that was rounded; in base 2, half a unit in its last place. In the
    interpreter, which rounds each score as well, that is at most twice the error of the one pass that needs
    none.
    """
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randint(-2, 3, (60, 1, 32), generator=generator).float() for _ in range(2))
    q[..., 4:], q[..., 0], k[..., 0] = 0, 1, magnitude
    q, k = on_device(q, k)
    options = {"cu_seqlens": torch.tensor([0, 60], dtype=torch.int32, device=DEVICE), "scale": 0.7}
    exact = ata_attention(q.double(), k.double(), k.double(), backend="reference", **options).column_sums

    def error(max_seqlen):
        found = ata_attention(q, k, k, backend="triton", max_seqlen=max_seqlen, **options)
        return ((found.column_sums - exact).abs() / exact).max().item()

    unit = 2.0 ** (math.floor(math.log2(0.7 * magnitude / math.log(2))) - 23)
    bound = 2 * error(60) if tiles.interpreted() else unit / 2 * math.log(2)
    assert error(None) <= bound + 1e-5


def test_autocast_takes_fp32_to_the_tensor_cores():
    """As PyTorch's own attention: on fp32 input, the results of its half-precision copy."""
    inputs, cu_seqlens = packed_tensors([40, 3], 1, 2, 32)
    q, k, v = on_device(*inputs[:3])
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = ata_attention(q, k, v, cu_seqlens=cu_seqlens, backend="triton")
    expected = ata_attention(*(x.bfloat16() for x in (q, k, v)), cu_seqlens=cu_seqlens, backend="triton")
    assert found.out.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(found[:3], expected[:3], strict=True))


@pytest.mark.parametrize(
    "seen", [{}, {"causal": True}, {"window": (100, 30)}, {"window": (200, 150)}], ids=str
)
@pytest.mark.parametrize("layout", ["packed", "masked", "holed"])
@pytest.mark.parametrize("d", [64, 96, 128, 256])
def test_shipped_tiles_in_half_precision(d, layout, seen, monkeypatch):
    """Several tiles of sm_90's table, whole and cut off, edges and interiors, against fp64, by norms.

    P and dS are rounded to bf16, of 8 bits, before they are multiplied: errors of 2⁻⁹ at most each, that
    average out over a sum; those of dq are the largest, since two such sums are subtracted in it.
    """
    if tiles.interpreted():
        monkeypatch.setattr(tiles, "table_of", lambda _: "sm_90")
    if layout == "packed":
        inputs, cu_seqlens = packed_tensors([300, 1, 0, 33], 1, 2, d)
        options = {"cu_seqlens": cu_seqlens, **seen}
    else:
        inputs = tensors(2, 1, 2, 300, d)
        tokens = torch.arange(300) >= torch.tensor([[0], [170]])
        if layout == "holed":
            tokens &= torch.arange(300) % 7 != 3
        options = {"key_padding_mask": tokens.to(DEVICE), **seen}
        inputs = fill_padding(inputs, tokens, 0.0)
    *inputs, d_sums = on_device(*inputs, dtype=torch.bfloat16)
    found = triton(*inputs, d_sums.float(), **options)
    exact = reference(*(x.double() for x in (*inputs, d_sums)), **options)
    for name, ours, true in zip(("out", "sums", "dq", "dk", "dv"), found, exact, strict=True):
        error = ((ours.double() - true).norm() / true.norm()).item()
        assert error <= (1e-5 if name == "sums" else 2**-7), (name, error)


@pytest.mark.gpu
def test_offsets_beyond_two_to_the_31():
    """The last sequence of a batch of more than 2³¹ elements, alone and in its place."""
    n, heads, d = 4096, 8, 128
    batch = 2**31 // (n * heads * d) + 2
    q, k, v = (torch.randn(batch, heads, n, d, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    assert q.numel() > 2**31
    d_sums = torch.randn(batch, heads, n, device="cuda")
    whole = triton(q, k, v, q, d_sums)
    alone = triton(*(x[-1:] for x in (q, k, v, q, d_sums)))
    for a, b in zip(whole, alone, strict=True):
        assert torch.equal(a[-1:], b)


@pytest.mark.gpu
def test_nothing_waits_for_the_real_device():
    inputs, cu_seqlens = packed_tensors([300, 20], 1, 2, 64)
    inputs = on_device(*inputs, dtype=torch.bfloat16)
    triton(*inputs, cu_seqlens=cu_seqlens)  # compiled, which may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        triton(*inputs, cu_seqlens=cu_seqlens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
