"""The public function: checks its arguments, names what is wrong with them, and hands them to a backend."""

import itertools
import warnings
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from ata_attention import chunked, reference
from ata_attention.autocast import in_autocast, without_autocast
from ata_attention.masks import Visibility, Window

Backend = Literal["auto", "triton", "chunked", "reference"]
# A backend is a module with a function for each layout, `padded` and `packed`.
BACKENDS = ("triton", "chunked", "reference")
# Of the Triton kernels. Beyond these scales a hidden key's score would not be far below all others.
LARGEST_HEAD_DIM = 256
SCALES = (1e-12, 1e6)


class AtaOutput(NamedTuple):
    """What `ata_attention` returns; `backend` names the implementation that ran."""

    out: Tensor
    lse: Tensor
    column_sums: Tensor
    backend: str


def ata_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | Window | None = None,
    key_padding_mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: Backend = "auto",
) -> AtaOutput:
    """Self-attention that also returns the column sums `c_hj = Σ_i P_hij`: the attention that key `j`
    receives.

    Two layouts, distinguished by `cu_seqlens`:

    - padded: `q [B, Hq, N, D]`, `k, v [B, Hkv, N, D]`, `key_padding_mask` bool `[B, N]`, True = token;
      padding may stand on either side, or anywhere. A padded query sees nothing and gives nothing: its `out`
      is 0, its `lse` +inf, and it adds nothing to any column sum;
    - packed: `q [T, Hq, D]`, `k, v [T, Hkv, D]`, `cu_seqlens` int32 `[S + 1]` rising from 0 to T (a sequence
      may have length 0 or 1), and `max_seqlen`, the longest length, if the caller knows it: short
      sequences have a faster path. On a GPU the values of both are trusted: checking them would wait for
      the device.

    Query head `h` uses key head `h // (Hq / Hkv)`. `scale` defaults to `D ** -0.5`. With `softcap` a
    score `s` becomes `softcap * tanh(s / softcap)`, as in Gemma 2, before keys are hidden. With `window =
    (left, right)` query `i` sees the keys `i - left … i + right`; an int means both. `causal` hides the keys
    after `i`. `backend` is "triton" (kernels for NVIDIA GPUs of compute capability 8.0 or more: bf16, fp16,
    fp32, head dimensions up to 256, no soft cap), "chunked" (any device, O(n) memory), "reference" (the whole
    matrix), or "auto": triton where it can, else chunked, with a warning if that is on a GPU; in a graph that
    torch.export makes, reference.

    Under autocast the Triton kernels take fp32 input in autocast's dtype, as PyTorch's own attention does;
    the other backends compute in fp32 at all times.

    Returns `out`, shape and dtype of `q` as it was computed with; `lse` and `column_sums`, `[B, Hq, N]` or
    `[T, Hq]`, fp32 (fp64 for fp64 input). Gradients flow through `out` and `column_sums`; `lse` carries none.
    For each head and each sequence of `n` tokens `Σ_j c_hj = n`.

    Raises ValueError or TypeError, naming the argument, for shapes, dtypes or devices that do not fit, and
    NotImplementedError, with the reason, where the chosen backend cannot take the input.
    """
    _check_tensors(q, k, v, layout="[B, H, N, D] (padded)" if cu_seqlens is None else "[T, H, D] (packed)")
    _check_window(window)
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap!r}; expected a number above 0, or None for no cap")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    visibility = Visibility.of(causal, window)
    if cu_seqlens is None:
        if max_seqlen is not None:
            raise ValueError(
                "max_seqlen belongs to the packed layout: pass cu_seqlens with it, or leave it out"
            )
        _check_padding(key_padding_mask, q)
    else:
        if key_padding_mask is not None:
            raise ValueError(
                "key_padding_mask and cu_seqlens belong to two different layouts: pass one of them"
            )
        _check_lengths(cu_seqlens, max_seqlen, q)
    chosen = _chosen(backend, q.device, q.dtype, _unfit(q, scale, softcap))
    run = _module(chosen)
    cap = {} if softcap is None else {"softcap": softcap}  # the Triton kernels have no such argument
    if chosen == "triton":
        q, k, v = (x.to(in_autocast(x.device, x.dtype)) for x in (q, k, v))
    # Backends choose their own precision: autocast would take their fp32 matmuls back to half precision.
    with without_autocast(q.device):
        if cu_seqlens is None:
            out, lse, column_sums = run.padded(q, k, v, key_padding_mask, scale, visibility, **cap)
        else:
            out, lse, column_sums = run.packed(q, k, v, cu_seqlens, max_seqlen, scale, visibility, **cap)
    return AtaOutput(out, lse, column_sums, chosen)


def _chosen(backend: Backend, device: torch.device, dtype: torch.dtype, unfit: str | None) -> str:
    """Name of the backend that will run. In a compiled graph it is settled while the graph is made."""
    if backend == "auto":
        if torch.compiler.is_exporting():  # plain operations, for any number of tokens and any runtime
            return "reference"
        if device.type != "cuda":
            return "chunked"
        reason = unfit or _refusal(device, dtype)
        if reason is not None:
            warnings.warn(f"ata_attention runs its slower, portable backend: {reason}", stacklevel=3)
        return "triton" if reason is None else "chunked"
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of auto, {', '.join(BACKENDS)}")
    if backend == "triton" and (reason := unfit or _refusal(device, dtype)) is not None:
        raise NotImplementedError(f"{reason}; use backend='auto' or 'chunked'")
    return backend


# All that torch.compiler.assume_constant_result does, without its import of the whole compiler and Triton.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _unfit(q: Tensor, scale: float, softcap: float | None) -> str | None:
    """What the Triton kernels cannot take, whatever the device; sizes may be symbols in a compiled graph."""
    if softcap is not None:
        return "the Triton kernels do not cap scores"
    if q.shape[-1] > LARGEST_HEAD_DIM:
        return f"the head dimension is above {LARGEST_HEAD_DIM}, the Triton kernels' largest"
    if not SCALES[0] < scale < SCALES[1]:
        return f"scale is not between {SCALES[0]:g} and {SCALES[1]:g}, as the Triton kernels need it"
    return None


def _refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot run; None if they can."""
    try:
        return _module("triton").refusal(device, dtype)
    except ImportError as error:
        return f"Triton is not installed ({error})"


def _module(backend: str) -> ModuleType:
    if backend == "triton":
        from ata_attention.gpu import ops  # takes Triton to be installed, and time

        return ops
    return chunked if backend == "chunked" else reference


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, *, layout: str) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != layout.count(",") + 1:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {layout}")
        if x.dtype != q.dtype or x.device != q.device:
            raise TypeError(f"{name} is {x.dtype} on {x.device}, but q is {q.dtype} on {q.device}")
    if not q.dtype.is_floating_point:
        raise TypeError(f"q has dtype {q.dtype}; expected a floating-point dtype")
    if k.shape != v.shape:
        raise ValueError(f"k has shape {tuple(k.shape)} and v {tuple(v.shape)}; they must be equal")
    # Heads are the second axis in both layouts.
    if (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(
            f"q has shape {tuple(q.shape)} and k {tuple(k.shape)}; only their heads may differ in number"
        )
    if q.shape[-1] == 0:
        raise ValueError(f"q has shape {tuple(q.shape)}; the head dimension must be 1 or more")
    if k.shape[1] == 0 or q.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"q has {q.shape[1]} heads and k has {k.shape[1]}; expected a multiple")


def _check_window(window: int | Window | None) -> None:
    if window is None:
        return
    sides = window if isinstance(window, tuple) else (window, window)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 0 for side in sides):
        raise ValueError(
            f"window is {window!r}; expected an int or (left, right), 0 or more, or None for no limit"
        )


def _check_padding(key_padding_mask: Tensor | None, q: Tensor) -> None:
    if key_padding_mask is None:
        return
    expected = (q.shape[0], q.shape[2])
    if key_padding_mask.dtype != torch.bool or tuple(key_padding_mask.shape) != expected:
        raise ValueError(
            f"key_padding_mask is {key_padding_mask.dtype} {tuple(key_padding_mask.shape)}; "
            f"expected torch.bool {expected}, True where there is a token"
        )


def _check_lengths(cu_seqlens: Tensor, max_seqlen: int | None, q: Tensor) -> None:
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or len(cu_seqlens) == 0:
        raise ValueError(
            f"cu_seqlens is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}; expected torch.int32 [S + 1]"
        )
    if cu_seqlens.device != q.device:
        raise TypeError(f"cu_seqlens is on {cu_seqlens.device}, but q is on {q.device}")
    if not _has_values(cu_seqlens):
        return
    bounds = cu_seqlens.tolist()
    if bounds != sorted(bounds) or bounds[0] != 0 or bounds[-1] != q.shape[0]:
        raise ValueError(
            f"cu_seqlens must rise from 0 to {q.shape[0]}, the number of tokens in q; found {bounds}"
        )
    longest = max((stop - start for start, stop in itertools.pairwise(bounds)), default=0)
    if max_seqlen is not None and max_seqlen < longest:
        raise ValueError(f"max_seqlen is {max_seqlen}, but the longest sequence has {longest} tokens")


def _has_values(x: Tensor) -> bool:
    """Whether a look at the values is possible, and waits for no device."""
    return x.device.type == "cpu" and not isinstance(x, FakeTensor) and not torch.compiler.is_compiling()
