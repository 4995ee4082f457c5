"""Padded batches with a mask of tokens, of which sequences with holes have kernels of their own."""

import pytest
import torch
from ata_attention import ata_attention
from ata_attention.gpu import launch, tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.comparison import DEVICE, TOLERANCE, fill_padding, on_device, triton, windows
from tests.kernels.oracle import oracle, tensors, visible_pairs

pytestmark = pytest.mark.usefixtures("uninitialised_memory_is_nan")


@settings(deadline=None, max_examples=200)
@given(
    n=st.integers(1, 33) | st.integers(60, 70),
    tile=st.sampled_from([(16, 16), (32, 16), (16, 32)]),
    ahead=st.booleans(),
    whole=st.sampled_from([0, 32]),
    causal=st.booleans(),
    window=windows | st.just((40, 40)),
    side=st.sampled_from(["left", "right", "both", "anywhere", "none", "one and all"]),
    may_fuse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_padded_batches(n, tile, ahead, whole, causal, window, side, may_fuse, seed):
    """With padding on either side or in between, against the oracle. NaN at padding harms nobody."""
    inputs = tensors(2, 1, 1, n, 32, seed)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, n + 1, (2, 1), generator=generator)
    rows, begins = torch.arange(n), (n - lengths) // 2
    holed = torch.rand(2, n, generator=generator) < 0.6
    tokens = {
        "right": rows < lengths,
        "left": rows >= n - lengths,
        "both": (rows >= begins) & (rows < begins + lengths),
        "anywhere": holed,
        "none": torch.ones(2, n, dtype=torch.bool),
        "one and all": torch.stack([holed[0], torch.ones(n, dtype=torch.bool)]),
    }[side]
    expected = oracle(*fill_padding(inputs, tokens, 0.0), visible_pairs(n, causal, window, tokens))
    dirty = fill_padding(inputs, tokens, float("nan"))
    with pytest.MonkeyPatch.context() as patch:
        if tiles.interpreted():
            patch.setattr(tiles, "INTERPRETED", tiles.Tile(*tile, 1, 1, ahead, whole))
        if not may_fuse:
            patch.setattr(tiles, "FUSED_MAX_SEQLEN", 0)
        found = triton(*on_device(*dirty), causal=causal, window=window, key_padding_mask=tokens.to(DEVICE))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double().cpu(), theirs, **TOLERANCE)


def test_spans_of_tokens():
    """The first token, the row behind the last, and how many there are, over several blocks of rows."""
    n = 2 * launch.ROWS_AT_ONCE + 7
    tokens = torch.zeros(5, n, dtype=torch.uint8, device=DEVICE)
    tokens[1, 3:2000] = tokens[2, 5] = tokens[2, n - 1] = tokens[3] = tokens[4, -2:] = 1
    spans = launch.with_spans(launch.Batch(tokens, None, n, 1.0, None, None)).spans
    expected = [[0, 0, 0], [3, 2000, 1997], [5, n, 2], [0, n, n], [n - 2, n, 2]]
    assert spans.tolist() == expected
    plain = launch.Batch(None, None, n, 1.0, None, None)
    assert launch.with_spans(plain) is plain


class Only:
    """A kernel of whose starts those with the flags of a mask happen, or those without."""

    def __init__(self, kernel, has_flags):
        self.kernel, self.has_flags = kernel, has_flags

    def __getitem__(self, grid):
        def start(*arguments, **options):
            tokens = arguments[-9]
            if (tokens is not None) is self.has_flags:
                self.kernel[grid](*arguments, **options)

        return start


@pytest.mark.parametrize("has_flags", [False, True])
def test_a_mask_of_tokens_starts_two_kernels(has_flags, monkeypatch):
    """Either writes the sequences that are its own, with holes or without, and leaves the others alone."""
    q, k, v, d_out, d_sums = on_device(*tensors(3, 1, 1, 40, 32))
    tokens = torch.ones(3, 40, dtype=torch.uint8, device=DEVICE)
    tokens[0, :9] = tokens[1, 7] = tokens[2, 30:] = 0
    batch = launch.with_spans(launch.Batch(tokens, None, 40, 1.0, None, None))

    def results():
        numbers = torch.zeros_like(d_sums)
        sums = launch.column_sums(q, k, numbers, batch)
        from_queries = launch.backward_dq(d_out, d_sums, q, k, v, q, numbers, batch)
        from_keys = launch.backward_dkv(d_out, d_sums, q, k, v, numbers, numbers, batch)
        return *launch.attention(q, k, v, batch), sums, *from_queries, *from_keys

    both = results()
    for name in ("attention", "column_sums", "backward_dq", "backward_dkv"):
        monkeypatch.setattr(launch, f"{name}_kernel", Only(getattr(launch, f"{name}_kernel"), has_flags))
    own, others = ([1], [0, 2]) if has_flags else ([0, 2], [1])
    for alone, whole in zip(results(), both, strict=True):
        assert not whole.isnan().any()
        assert torch.equal(alone[own], whole[own])
        assert alone[others].isnan().all()


def test_lse_and_rows_of_padding():
    q, k, v, *_ = on_device(*tensors(2, 1, 2, 18, 32))
    tokens = torch.tensor([[True] * 15 + [False] * 3, [False] * 18], device=DEVICE)
    result = ata_attention(q, k, v, key_padding_mask=tokens, backend="triton")
    expected = torch.logsumexp(q[0] @ k[0, :, :15].mT * 32**-0.5, -1)
    torch.testing.assert_close(result.lse[0, :, :15], expected[:, :15], **TOLERANCE)
    gone = ~tokens[:, None].expand_as(result.lse)
    assert (result.lse[gone] == float("inf")).all()
    assert (result.out[gone] == 0).all()
    assert (result.column_sums[gone] == 0).all()
