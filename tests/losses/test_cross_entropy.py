"""The chunked cross-entropy is torch's, with its gradient, and its memory is that of a chunk."""

from pathlib import Path
from unittest import mock

import pytest
import torch

from mgh_ds.losses import cross_entropy as module
from mgh_ds.losses.cross_entropy import cross_entropy


def example(
    count: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(count + vocabulary)
    states = 3 * torch.randn(count, width, generator=random, dtype=torch.float64)
    head = torch.randn(vocabulary, width, generator=random, dtype=torch.float64)
    targets = torch.randint(vocabulary, (count,), generator=random)
    return states.to(dtype).requires_grad_(), head.to(dtype), targets


@pytest.mark.parametrize("chunk", [1, 97, 10_000])  # a row, two rows, all
@pytest.mark.parametrize("count", [0, 1, 7])
def test_it_is_torchs_whatever_the_chunks(chunk: int, count: int) -> None:
    states, head, targets = example(count, 40, 6)
    expected = torch.nn.functional.cross_entropy(states @ head.T, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(expected * 0.3, states)
    with mock.patch.object(module, "CHUNK", chunk):
        found, correct = cross_entropy(states, head, targets)
        (found * 0.3).backward()
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(states.grad, gradient, rtol=1e-12, atol=1e-13)
    assert correct == ((states @ head.T).argmax(dim=1) == targets).sum()


def test_its_gradient_is_that_of_finite_differences() -> None:
    states, head, targets = example(4, 9, 3)
    assert torch.autograd.gradcheck(lambda states: cross_entropy(states, head, targets).total, (states,))


def test_logits_beyond_the_range_of_exp_do_no_harm() -> None:
    states, head, targets = example(5, 11, 3, torch.float32)
    found = cross_entropy(states * 1e3, head, targets).total
    expected = torch.nn.functional.cross_entropy(states * 1e3 @ head.T, targets, reduction="sum")
    assert found.isfinite()
    torch.testing.assert_close(found, expected)


def test_bfloat16_is_summed_in_float32() -> None:
    """Rounded are the logits and the gradient's factors (2⁻⁸ of each), not the sums."""
    states, head, targets = example(64, 300, 16, torch.bfloat16)
    found = cross_entropy(states, head, targets).total
    found.backward()
    exact, same = states.detach().double().requires_grad_(), head.double()
    expected = torch.nn.functional.cross_entropy(exact @ same.T, targets, reduction="sum")
    expected.backward()
    assert found.dtype == torch.float32
    assert states.grad is not None
    assert states.grad.dtype == torch.bfloat16
    assert exact.grad is not None
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=0)
    assert (states.grad.double() - exact.grad).norm() < 2**-6 * exact.grad.norm()


def test_the_head_is_frozen_and_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    states, head, targets = example(5, 11, 3)
    head.requires_grad_()
    cross_entropy(states, head, targets).total.backward()
    assert head.grad is None
    assert not cross_entropy(states.detach(), head, targets).total.requires_grad


def test_its_memory_is_that_of_a_chunk() -> None:
    """640 states over 2¹⁷ tokens: their logits alone would take 320 MiB, and as much again for the gradient.
    Measured is how far the process's peak of resident memory rises; a chunk has 64 MiB."""
    states, head, targets = example(640, 2**17, 8, torch.float32)
    cross_entropy(states[:2], head, targets[:2]).total.backward()  # what libraries take at their first call
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_mib()
    cross_entropy(states, head, targets).total.backward()
    assert peak_mib() - before < 1.5 * module.CHUNK * 4 / 2**20


def peak_mib() -> float:
    """Of this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
