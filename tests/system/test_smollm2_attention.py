"""The Triton kernels on queries, keys and values of SmolLM2-135M-Instruct, against the definition in fp64: on
the GPU if there is one, else interpreted.

Random inputs have scores of about 1, and keys whose mean is near 0. A trained model's scores reach from -48
to 15, and the keys of a head share a part that is larger than what tells them apart. That part cancels in the
gradient of q, but for what the rounding of the weights leaves of it.
"""

import functools

import pytest
import torch
from ata_attention import transformers
from transformers import AttentionInterface

from tests.kernels.oracle import eager_attention, run
from tests.system.smollm2 import NEEDED, TEXTS, smollm2

pytestmark = [*NEEDED, pytest.mark.usefixtures("quick_interpreter", "interpreted_bfloat16")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Where scores are largest, behind the layer that makes the first token's state thousands, and what is pooled.
LAYERS = [(True, 18), (True, 29), (False, 12), (False, 29)]


@functools.cache
@torch.no_grad()
def activations(bidirectional: bool) -> list[tuple[torch.Tensor, ...]]:
    """Of each layer q `[T, 9, 64]`, k and v `[T, 3, 64]`, fp32, of one text."""
    found = []

    def spy(module, query, key, value, *others, **options):
        found.append(tuple(x[0].transpose(0, 1).clone() for x in (query, key, value)))
        return transformers.attention_forward(module, query, key, value, *others, **options)

    model, tokenizer = smollm2(bidirectional=bidirectional)
    AttentionInterface.register(transformers.IMPLEMENTATION, spy)
    try:
        model(tokenizer.tokenize(TEXTS[:1]))
    finally:
        transformers.register()
    assert len(found) == 30
    return found


def test_scores_are_unlike_random_ones() -> None:
    q, k, _ = activations(True)[18]
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(3, 1)) / 8
    assert scores.max() - scores.min() > 30
    shared = k.mean(0, keepdim=True)
    assert shared.norm() * len(k) ** 0.5 > (k - shared).norm()


@pytest.mark.parametrize(("bidirectional", "layer"), LAYERS)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "two passes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_are_no_worse_than_twice_pytorchs_own(dtype, fused, bidirectional, layer) -> None:
    """‖our error‖ <= 2·‖error of PyTorch's attention in the same dtype‖ + eps·‖result‖, forth and back.

    PyTorch's attention rounds what ours must round. By norms, since here, unlike with random inputs, a few
    entries make the largest error, and which of the two has more luck with them says nothing.
    """
    q, k, v = activations(bidirectional)[layer]
    generator = torch.Generator().manual_seed(layer)
    d_out, d_sums = (torch.randn(shape, generator=generator) for shape in (q.shape, q.shape[:2]))
    *rounded, d_sums = (x.to(DEVICE, dtype) for x in (q, k, v, d_out, d_sums))
    bounds = torch.tensor([0, len(q)], dtype=torch.int32, device=DEVICE)
    options = {
        "causal": not bidirectional,
        "cu_seqlens": bounds,
        "max_seqlen": len(q) if fused else None,
    }
    ours = run("triton", *rounded, d_sums.float(), **options)
    exact = run("reference", *(x.double() for x in (*rounded, d_sums)), **options)
    eager = eager_attention(*rounded, d_sums, not bidirectional)
    assert [x.dtype for x in ours] == [dtype, torch.float32, dtype, dtype, dtype]
    for found, plain, true in zip(ours, eager, exact, strict=True):
        error, baseline = ((x.double() - true).norm().item() for x in (found, plain))
        assert error <= 2 * baseline + torch.finfo(dtype).eps * true.norm().item()
    # Column sums stay in fp32 from the scores on: products of two bf16 numbers are exact there.
    sums, true = ours[1].double(), exact[1]
    assert (sums - true).norm() <= 1e-6 * true.norm()
