"""Batches as they are measured."""

import statistics

import pytest
import torch

from benchmarks import cases
from benchmarks.cases import Case, all_cases, make_inputs


def test_realistic_lengths_are_those_that_were_asked_for():
    lengths = cases.realistic_lengths(5000)
    assert lengths == cases.realistic_lengths(5000)
    assert lengths != cases.realistic_lengths(5000, seed=1)
    assert 170 < statistics.median(lengths) < 190
    assert min(lengths) == cases.SHORTEST
    assert 1000 < max(lengths) <= cases.LONGEST
    assert max(cases.realistic_lengths(5000, longest=300)) == 300


def test_a_packed_batch_has_one_long_text_amid_short_ones():
    lengths = cases.packed_lengths(16384)
    place = lengths.index(8192)
    assert 0 < place < len(lengths) - 1
    assert 16384 <= sum(lengths) < 16384 + 8192
    assert cases.packed_lengths(100, 100) == (100,)


def test_a_padded_batch_keeps_to_its_tokens():
    assert cases.padded_lengths(512, 16384) == (512,) * 32
    assert cases.padded_lengths(32768, 16384) == (32768,)


def test_pairs_are_counted_one_by_one():
    lengths = (3, 1, 4)
    full = Case("packed", lengths, 2, 1, 8, torch.float32, causal=False)
    causal = Case("packed", lengths, 2, 1, 8, torch.float32, causal=True)
    assert full.pairs == 9 + 1 + 16
    assert causal.pairs == (1 + 2 + 3) + 1 + (1 + 2 + 3 + 4)
    assert (full.n, full.tokens) == (4, 8)


def test_every_combination_comes_once():
    found = list(
        all_cases(
            layouts=["padded", "packed"],
            lengths=[64, 128],
            tokens=256,
            dims=[64, 128],
            heads=[(4, 4), (4, 2)],
            dtypes=[torch.float16],
            masks=["full", "causal"],
        )
    )
    assert len(found) == len(set(found)) == 3 * 2 * 2 * 2
    assert all(case.n == 128 for case in found if case.layout == "packed")


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_inputs_have_the_kernels_shapes(layout):
    case = Case(layout, (5, 5), 4, 2, 8, torch.float16, causal=False)
    q, k, v, d_out, d_sums, cu_seqlens = make_inputs(case, torch.device("cpu"))
    if layout == "padded":
        assert q.shape == d_out.shape == (2, 4, 5, 8)
        assert k.shape == v.shape == (2, 2, 5, 8)
        assert d_sums.shape == (2, 4, 5)
        assert cu_seqlens is None
        assert q.transpose(1, 2).is_contiguous()
    else:
        assert q.shape == d_out.shape == (10, 4, 8)
        assert d_sums.shape == (10, 4)
        assert cu_seqlens.tolist() == [0, 5, 10]
        assert cu_seqlens.dtype == torch.int32
    assert q.dtype == torch.float16
    assert d_sums.dtype == torch.float32
    assert not torch.equal(k, v)


def test_a_packed_batch_has_no_holes():
    with pytest.raises(ValueError, match="no mask of tokens"):
        Case("packed", (5, 5), 2, 1, 8, torch.float16, causal=False, holes=True)
