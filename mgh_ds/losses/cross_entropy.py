"""Cross-entropy over a large vocabulary without its logits: a chunk of them at a time.

    loss_i = log Σ_v exp(h_i · w_v) − h_i · w_t(i)          ∂loss_i/∂h_i = Σ_v softmax(h_i · w)_v w_v − w_t(i)

over states h and the rows w of a frozen output head. The gradient is taken while a chunk's logits are there
and folded into one for the states, so what outlives the forward pass has the states' size, and the logits
[m, V] of all states together never exist. Fused so in Hsu et al., "Liger Kernel: efficient Triton kernels for
LLM training", 2024, section 3.2; here a few products of matrices for any device.

Shapes: m states of width d, V tokens in the vocabulary.
"""

from typing import Any, NamedTuple

import torch

CHUNK = 2**24  # logits in a chunk: 64 MiB of float32


class CrossEntropy(NamedTuple):
    """What `cross_entropy` finds; scalars."""

    total: torch.Tensor  # the losses added up, float32 or the states' own if that is wider; with gradient
    correct: torch.Tensor  # int64: how many targets have the greatest logit


def cross_entropy(states: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> CrossEntropy:
    """The sum of the states' cross-entropies, of which only the states get a gradient.

    Args:
        states: [m, d], of any floating-point type; m may be 0.
        head: [V, d], of the same type; the output head, or the embedding table where the two are tied.
        targets: int64 [m], below V.
    """
    return CrossEntropy(*_CrossEntropy.apply(states, head.detach(), targets))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, head: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = torch.zeros((), dtype=_wide(states.dtype), device=states.device)
        correct = torch.zeros((), dtype=torch.int64, device=states.device)
        gradient = torch.empty_like(states) if states.requires_grad else None
        rows = max(1, CHUNK // len(head))
        for first in range(0, len(states), rows):
            part = slice(first, first + rows)
            into = None if gradient is None else gradient[part]
            loss, hits = _chunk(states[part], head, targets[part, None], into)
            total += loss
            correct += hits
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, of_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None
        # The factor is small and exact to float32, which in half precision would be off for all states alike.
        return (gradient.to(of_total.dtype) * of_total).to(gradient.dtype), None, None


def _chunk(
    states: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, gradient: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses and number of hits of a few states with targets [m, 1]; their gradient goes into the
    room that is given for it. One matrix of logits, worked on in place."""
    logits = torch.mm(states, head.T).to(_wide(states.dtype))
    greatest, found = logits.max(dim=1, keepdim=True)
    logits -= greatest
    of_target = logits.gather(1, targets)
    sums = logits.exp_().sum(dim=1, keepdim=True)
    if gradient is not None:
        logits /= sums  # the softmax, from here on
        logits.scatter_add_(1, targets, torch.full_like(of_target, -1))
        torch.mm(logits.to(head.dtype), head, out=gradient)
    return (sums.log() - of_target).sum(), (found == targets).sum()


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What sums are kept in."""
    return torch.promote_types(dtype, torch.float32)
