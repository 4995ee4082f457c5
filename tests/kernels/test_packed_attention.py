"""Plain attention over packed sequences: against one matrix with a mask, and which function is chosen."""

import importlib.util
import itertools
import sys
from types import SimpleNamespace

import pytest
import torch
from ata_attention import packed as module
from ata_attention.packed import (
    BlockDiagonalMask,
    implementation_for,
    packed_attention,
    with_flash_attn,
    with_sdpa,
    with_torch_varlen,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen

MASKS = [(False, None), (True, None), (False, (2, 3)), (True, (2, 0)), (False, (0, 0))]


def one_matrix(q, k, v, lengths, causal, window, scale):
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


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU of the given compute capability, and flash_attn or not."""

    def pretend(capability=(9, 0), flash_attn=None):
        implementation_for.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: flash_attn)
        monkeypatch.setitem(sys.modules, "flash_attn", flash_attn)

    yield pretend
    implementation_for.cache_clear()


def test_on_a_gpu_flash_attn_is_chosen_if_installed_and_else_torchs_own(gpu):
    cuda = torch.device("cuda")
    for dtype, head_dim in itertools.product((torch.bfloat16, torch.float16), (32, 64, 96, 128, 256)):
        gpu(flash_attn=SimpleNamespace())
        assert implementation_for(cuda, dtype, head_dim) is with_flash_attn
        gpu(flash_attn=None)
        assert implementation_for(cuda, dtype, head_dim) is with_torch_varlen


def test_what_flash_kernels_cannot_do_goes_sequence_by_sequence(gpu):
    cuda = torch.device("cuda")
    gpu(flash_attn=SimpleNamespace())
    assert implementation_for(cuda, torch.float32, 64) is with_sdpa
    assert implementation_for(cuda, torch.bfloat16, 20) is with_sdpa
    assert implementation_for(cuda, torch.bfloat16, 512) is with_sdpa
    assert implementation_for(torch.device("cpu"), torch.bfloat16, 64) is with_sdpa
    gpu(capability=(7, 5), flash_attn=SimpleNamespace())
    assert implementation_for(cuda, torch.float16, 64) is with_sdpa


def by_window(q, k, v, bounds, scale, left, right):
    """What the flash kernels do with a window: -1 is no limit on that side."""
    n = len(q)
    window = (n if left < 0 else left, n if right < 0 else right)
    return one_matrix(q, k, v, bounds.diff().tolist(), False, window, scale)


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_the_arguments_for_flash_attn_mean_the_same(causal, window, gpu, monkeypatch):
    """A stand-in, written after its documentation, gets what flash_attn would get."""
    (q, k, v), packing = random_sequences([3, 1, 7])

    def stand_in(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        deterministic=False,
    ):
        assert cu_seqlens_q is cu_seqlens_k
        assert (cu_seqlens_q.dtype, max_seqlen_q, max_seqlen_k, dropout_p) == (torch.int32, 7, 7, 0.0)
        assert deterministic is torch.are_deterministic_algorithms_enabled()
        left, right = window_size
        return by_window(q, k, v, cu_seqlens_q, softmax_scale, left, 0 if causal else right)

    gpu(flash_attn=SimpleNamespace(flash_attn_varlen_func=stand_in))
    monkeypatch.setattr(module, "implementation_for", lambda *_: with_flash_attn)
    found = packed_attention(q, k, v, **packing, causal=causal, window=window, scale=0.5)
    torch.testing.assert_close(found, one_matrix(q, k, v, [3, 1, 7], causal, window, 0.5))


@pytest.mark.parametrize(("causal", "window"), MASKS)
def test_the_arguments_for_torchs_own_mean_the_same(causal, window, monkeypatch):
    (q, k, v), packing = random_sequences([3, 1, 7])
    monkeypatch.setattr(module, "implementation_for", lambda *_: with_torch_varlen)
    # The real one takes them: on the meta device it checks and computes shapes only.
    away = [x.to("meta") for x in (q, k, v)]
    bounds = packing["cu_seqlens"].to("meta")
    shape = with_torch_varlen(*away, 0.5, BlockDiagonalMask(bounds, 7, causal, window)).shape
    assert shape == q.shape

    def stand_in(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        assert cu_seq_q is cu_seq_k
        assert (cu_seq_q.dtype, max_q, max_k, enable_gqa) == (torch.int32, 7, 7, True)
        return by_window(q, k, v, cu_seq_q, scale, *window_size)

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    found = packed_attention(q, k, v, **packing, causal=causal, window=window, scale=0.5)
    torch.testing.assert_close(found, one_matrix(q, k, v, [3, 1, 7], causal, window, 0.5))
