"""Steps in which all keys are there and seen: working ahead, and tensor descriptors."""

import pytest
import torch
from ata_attention import ata_attention
from ata_attention.gpu import launch, tiles

from tests.kernels.comparison import (
    DEVICE,
    TOLERANCE,
    assert_equal_to_reference,
    fill_padding,
    on_device,
    packed_tensors,
    triton,
)
from tests.kernels.oracle import tensors

pytestmark = pytest.mark.usefixtures("uninitialised_memory_is_nan")


@pytest.mark.parametrize("causal", [False, True])
def test_working_ahead_over_several_steps(monkeypatch, causal):
    """Whole steps alone, one more than a multiple of them, and a single one."""
    monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(16, 16, 1, 1, True))
    inputs, cu_seqlens = packed_tensors([64, 49, 16], 1, 2, 32)
    assert_equal_to_reference(inputs, causal=causal, cu_seqlens=cu_seqlens)


@pytest.mark.parametrize(
    ("d", "seen"),
    [(32, {}), (32, {"causal": True}), (32, {"window": (50, 40)}), (24, {}), (24, {"causal": True})],
)
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("layout", ["packed", "padded", "as a transformer has it", "masked"])
def test_whole_steps_are_read_by_descriptors(monkeypatch, layout, seen, ahead, d):
    """Of another length than masked ones. With the same steps the results are those of plain loads, to the
    bit. A head of 24 is narrower than its tile."""
    monkeypatch.setattr(tiles, "FUSED_MAX_SEQLEN", 0)
    made = []
    describe = launch.describe
    monkeypatch.setattr(launch, "describe", lambda *given: made.append(given[2]) or describe(*given))
    if layout == "packed":
        inputs, cu_seqlens = packed_tensors([64, 49, 16, 33], 1, 2, d)
        options = {"cu_seqlens": cu_seqlens, **seen}
    else:
        inputs, options = tensors(2, 2, 1, 81, d), {**seen}
    if layout == "masked":
        tokens = torch.arange(81) >= torch.tensor([[0], [13]])
        inputs = fill_padding(inputs, tokens, 0.0)
        options["key_padding_mask"] = tokens.to(DEVICE)
    if layout == "as a transformer has it":
        inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) if x.ndim == 4 else x for x in inputs]
    monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(16, 16, 1, 1, ahead, 32))
    assert_equal_to_reference(inputs, **options)
    assert made == [32, 32], "of keys and values"
    monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(16, 16, 1, 1, ahead, 16))
    by_descriptors = triton(*on_device(*inputs), **options)
    monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(16, 16, 1, 1, ahead))
    for found, expected in zip(by_descriptors, triton(*on_device(*inputs), **options), strict=True):
        assert torch.equal(found, expected)
    assert made == [32, 32, 16, 16]


def test_a_sequence_sees_nothing_of_what_lies_behind_it_in_whole_steps(monkeypatch):
    monkeypatch.setattr(tiles, "FUSED_MAX_SEQLEN", 0)
    monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(16, 16, 1, 1, True, 32))
    inputs, cu_seqlens = packed_tensors([64, 49, 20], 1, 1, 32)
    q, k, v, *_ = on_device(*inputs)
    whole = ata_attention(q, k, v, cu_seqlens=cu_seqlens, backend="triton")
    for x in (q, k, v):
        x[113:] = float("nan")  # the last of three
    dirty = ata_attention(q, k, v, cu_seqlens=cu_seqlens, backend="triton")
    assert torch.equal(dirty.out[:113], whole.out[:113])
    assert torch.equal(dirty.column_sums[:113], whole.column_sums[:113])
    assert dirty.out[113:].isnan().all()


@pytest.mark.parametrize("fault", ["stride", "address", "expanded", "empty"])
def test_what_a_descriptor_cannot_name_is_read_without(monkeypatch, fault):
    """TMA wants multiples of 16 bytes."""
    monkeypatch.setattr(tiles, "FUSED_MAX_SEQLEN", 0)
    monkeypatch.setattr(tiles, "INTERPRETED", tiles.Tile(16, 16, 1, 1, True, 32))
    monkeypatch.setattr(launch, "describe", lambda *_: pytest.fail("described"))
    inputs, cu_seqlens = packed_tensors([0] if fault == "empty" else [49, 16], 2, 1, 32)
    q, k, v, *_ = on_device(*inputs)
    if fault == "stride":
        k = torch.cat([k, k[..., :1]], 2)[..., :32]
    if fault == "expanded":
        v = v[:, :1].expand_as(v)
    if fault == "address":
        v = torch.cat([v.flatten().new_zeros(1), v.flatten()])[1:].view(v.shape)
    found = ata_attention(q, k, v, cu_seqlens=cu_seqlens, backend="triton")
    expected = ata_attention(q.double(), k.double(), v.double(), cu_seqlens=cu_seqlens, backend="reference")
    torch.testing.assert_close(found.out.double(), expected.out, **TOLERANCE)
    torch.testing.assert_close(found.column_sums.double(), expected.column_sums, **TOLERANCE)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [96, 128])
def test_shipped_tiles_over_many_whole_steps(d, causal, monkeypatch):
    """On the chip, memory for two steps is used over and over."""
    if tiles.interpreted():
        monkeypatch.setattr(tiles, "table_of", lambda _: "sm_90")
    inputs, cu_seqlens = packed_tensors([700, 33], 1, 1, d)
    q, k, v = on_device(*inputs[:3], dtype=torch.bfloat16)
    found = ata_attention(q, k, v, cu_seqlens=cu_seqlens, causal=causal, backend="triton")
    exact = ata_attention(
        q.double(), k.double(), v.double(), cu_seqlens=cu_seqlens, causal=causal, backend="reference"
    )
    assert (found.out.double() - exact.out).norm() <= 2**-7 * exact.out.norm()
    assert (found.column_sums.double() - exact.column_sums).norm() <= 1e-5 * exact.column_sums.norm()
