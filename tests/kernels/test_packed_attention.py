"""Plain attention over packed sequences and unpadded batches: against one matrix with a mask, by torch alone
and by builds of flash attention."""

import inspect
import itertools

import pytest
import torch
from ata_attention import flash, reference
from ata_attention.flash import BlockDiagonalMask
from ata_attention.masks import Visibility
from ata_attention.packed import packed_attention, unpadded_attention
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flash_builds import FA2, HUB, KERNELS, PACKAGES, RAN, TORCH

MASKS = [(False, None), (True, None), (False, (2, 3)), (True, (2, 0)), (False, (0, 0))]


def one_matrix(q, k, v, lengths, causal, window, scale, softcap=None):
    """All sequences in one attention matrix, with everything hidden that a token may not see."""
    total, heads, _ = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    sequence = torch.repeat_interleave(torch.tensor(lengths))
    distance = torch.arange(total) - torch.arange(total)[:, None]
    visible = sequence == sequence[:, None]
    if window is not None:
        visible = visible & (distance >= -window[0]) & (distance <= window[1])
    if causal:
        visible = visible & (distance <= 0)
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


def random_sequences(lengths, heads=4, key_heads=2, head_dim=8, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(sum(lengths), h, head_dim, generator=random, dtype=dtype).requires_grad_()
        for h in (heads, key_heads, key_heads)
    )
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    return (q, k, v), {"cu_seqlens": bounds, "max_seqlen": max(lengths)}


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    mask=st.sampled_from(MASKS),
    key_heads=st.sampled_from([1, 2, 4]),
)
def test_any_layout_is_one_matrix_with_a_mask_and_so_is_its_gradient(lengths, mask, key_heads):
    """In fp64, to a millionth of what fp32 would leave."""
    causal, window = mask
    qkv, packing = random_sequences(lengths, key_heads=key_heads)
    found = packed_attention(*qkv, **packing, causal=causal, window=window, scale=0.3)
    expected = one_matrix(*qkv, lengths, causal, window, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    upstream = torch.randn(found.shape, dtype=found.dtype)
    gradients = (torch.autograd.grad(out, qkv, upstream) for out in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


NAMES = ["flash_attn_interface", *HUB, "flash_attn", TORCH]
ONLY = {name: {name: (PACKAGES | HUB).get(name, "")} for name in ("flash_attn_interface", "flash_attn")}
ONLY |= {name: {"kernels": KERNELS, name: code} for name, code in HUB.items()} | {TORCH: {}}
WIDE = (torch.bfloat16, torch.float64)  # the stand-ins take fp64 too, where differences are rounding alone


def same(found, expected, inputs):
    """Results and gradients, in fp64, to a millionth of what fp32 would leave."""
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    upstream = torch.randn(found.shape, dtype=found.dtype)
    gradients = (torch.autograd.grad(out, inputs, upstream) for out in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_every_build_is_handed_what_means_the_same(causal, window, name, flash_builds):
    flash_builds(ONLY[name], dtypes=WIDE)
    for softcap, key_heads in [(None, 2), (None, 4)] + [(0.7, 1)] * (name != TORCH):
        qkv, packing = random_sequences([3, 1, 0, 7], key_heads=key_heads)
        found = packed_attention(*qkv, **packing, causal=causal, window=window, scale=0.3, softcap=softcap)
        assert RAN[-1][0] == name
        if name != TORCH:
            asked = {
                "causal": causal,
                "window": window or (-1, -1),
                "softcap": softcap or 0.0,
                "gradient": True,
            }
            assert RAN[-1][1] == asked
        same(found, one_matrix(*qkv, [3, 1, 0, 7], causal, window, 0.3, softcap), qkv)


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_the_arguments_for_torchs_own_are_real(causal, window):
    """On the meta device it checks and computes shapes only."""
    (q, k, v), packing = random_sequences([3, 1, 7])
    away = [x.to("meta") for x in (q, k, v)]
    mask = BlockDiagonalMask(packing["cu_seqlens"].to("meta"), 7, causal, window)
    assert flash._load(flash.TORCH.name) is None
    assert flash.attend(flash.TORCH.name, *away, mask, 0.5, None).shape == q.shape


@pytest.mark.parametrize("builds", [{}, {"flash_attn": FA2}], ids=["torch", "flash_attn"])
@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_capped_scores_are_capped_by_whatever_runs(causal, window, builds, flash_builds):
    flash_builds(builds, dtypes=WIDE)
    qkv, packing = random_sequences([3, 1, 7])
    found = packed_attention(*qkv, **packing, causal=causal, window=window, scale=0.3, softcap=0.7)
    assert {name for name, _ in RAN} == set(builds)
    same(found, one_matrix(*qkv, [3, 1, 7], causal, window, 0.3, 0.7), qkv)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4).filter(
        lambda rows: any(map(any, rows))
    ),
    mask=st.sampled_from(MASKS),
    key_heads=st.sampled_from([1, 2, 4]),
)
def test_an_unpadded_batch_is_the_packed_one_wherever_its_padding_is(rows, mask, key_heads):
    causal, window = mask
    tokens = torch.tensor(rows)
    packed, packing = random_sequences(tokens.sum(1).tolist(), key_heads=key_heads)
    padded = []
    for x in packed:  # NaN at padding, which harms nobody
        full = torch.full((*tokens.shape, *x.shape[1:]), torch.nan, dtype=x.dtype)
        full[tokens] = x.detach()
        padded.append(full.transpose(1, 2).requires_grad_())
    options = {"causal": causal, "window": window, "scale": 0.3}
    found = unpadded_attention(*padded, tokens.flatten().nonzero()[:, 0], **options)
    expected = packed_attention(*packed, **packing, **options)
    torch.testing.assert_close(found[tokens], expected, atol=1e-12, rtol=1e-12)
    assert not found[~tokens].any()
    upstream = torch.randn(found.shape, dtype=found.dtype)
    ours = torch.autograd.grad(found, padded, upstream)
    theirs = torch.autograd.grad(expected, packed, upstream[tokens])
    for gradient, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient.transpose(1, 2)[tokens], right, atol=1e-12, rtol=1e-12)
        assert not gradient.transpose(1, 2)[~tokens].any()


def test_under_autocast_fp32_is_computed_in_its_precision(flash_builds):
    flash_builds({"flash_attn": FA2}, dtypes=(torch.bfloat16, torch.float16))
    qkv, packing = random_sequences([3, 1, 7], dtype=torch.float32)
    options = {"causal": True, "window": None, "scale": 0.3}
    with torch.autocast("cpu", torch.bfloat16):
        found = packed_attention(*qkv, **packing, **options)
    assert RAN[-1][0] == "flash_attn"
    halved = [x.bfloat16() for x in qkv]
    assert torch.equal(found, packed_attention(*halved, **packing, **options))
    assert all(x.dtype == torch.float32 for x in torch.autograd.grad(found, qkv, found))


def test_in_a_compiled_graph_the_build_is_settled_while_it_is_made(flash_builds, monkeypatch):
    """The real ones are one operator there; the stand-in looks at its data, so that this one does instead."""
    flash_builds({})

    def kernel(q, k, v, cu_seqlens_q, causal, window_size, softmax_scale, **_):
        visibility = Visibility.of(causal, window_size)
        return reference.packed(q, k, v, cu_seqlens_q, None, softmax_scale, visibility)[0]

    kernel.__signature__ = inspect.signature(flash.TORCH.load())
    monkeypatch.setattr(flash, "BUILDS", (flash.Build("one", lambda: kernel, ""),))
    (q, k, v), packing = random_sequences([3, 1, 7], dtype=torch.float32)

    def attend(q, k, v, cu_seqlens):
        return packed_attention(
            q, k, v, cu_seqlens=cu_seqlens, max_seqlen=7, causal=True, scale=0.3, window=(2, 0)
        )

    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    found = compiled(q, k, v, packing["cu_seqlens"])
    torch.testing.assert_close(found, one_matrix(q, k, v, [3, 1, 7], True, (2, 0), 0.3))
    found.sum().backward()
    assert q.grad.any()
