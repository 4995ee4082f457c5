"""The builds of flash attention that may be at hand, the fastest first, and which of them may run a layer.

A build runs a kind of layer once it has shown on a few random tokens that it can: what it gave, and its
gradient, were what the definition gives. So whatever is wrong with it (a symbol that is missing, another
torch or GPU than it was made for, a feature left out when it was made) costs one line in the log, which says
what and what to do, and the next build is tried. Nothing here reaches a network: of the builds of the
`kernels` package those in its cache are used.

Tested with stand-ins alone: no figures on a GPU are claimed.
"""

import importlib
import importlib.util
import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import varlen

from ata_attention import reference
from ata_attention.masks import Visibility, Window

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

UNLIMITED = (-1, -1)
DTYPES = (torch.bfloat16, torch.float16)
LARGEST_HEAD_DIM = 256
OLDEST = (8, 0)  # Ampere
HOPPER = (9, 0)
KERNELS_FA3 = ("kernels-community/flash-attn3", 1)  # a repository of the `kernels` package, and its version
KERNELS_FA2 = ("kernels-community/flash-attn2", 3)
# torch 2.11 takes fewer key heads than query heads as it is; later versions have an argument for it.
GROUPED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters else {}
)
# Of a norm. In these trials rounding to bf16 costs up to 0.008, a window one key too wide 0.2 or more.
TOLERANCE = 0.05


class NotFetched(LookupError):
    """A build that is not in the cache."""


class BlockDiagonalMask(NamedTuple):
    """Which keys each query attends to; the fields are arguments of `packed_attention`."""

    cu_seqlens: Tensor
    max_seqlen: int
    causal: bool
    window: Window | None


class Layer(NamedTuple):
    """What a layer asks of a build. `head_dim` is the width of a head; `grouped`, fewer heads of keys than of
    queries; `gradient`, that gradients are on; `deterministic`, that it must be the same bits every time."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    grouped: bool = False
    causal: bool = False
    windowed: bool = False
    capped: bool = False
    gradient: bool = False
    deterministic: bool = False


class Build(NamedTuple):
    """A build of flash attention.

    Attributes:
        name: for people.
        load: gives its `flash_attn_varlen_func`, or None where it is not installed; raises NotFetched, or
            whatever a broken package raises.
        remedy: what to do if it is broken.
        hopper: whether it is for GPUs of compute capability 9.0 alone, where its kernels end the process
            elsewhere.
    """

    name: str
    load: Callable[[], Callable[..., Any] | None]
    remedy: str
    hopper: bool = False


def chosen(layer: Layer) -> str | None:
    """The name of the fastest build that can run such a layer, tried by the first call; None if none can."""
    return _settled(*layer)


def _constant(function: Callable[P, R]) -> Callable[P, R]:
    """All that torch.compiler.assume_constant_result does, without its import of the whole compiler: in a
    compiled graph it is settled while the graph is made."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def _settled(*fields: Any) -> str | None:
    return _chosen(Layer(*fields))  # dynamo loses the fields of a named tuple


@cache  # a trial takes longer than a layer
def _chosen(layer: Layer) -> str | None:
    refused, found = [], None
    for build in _candidates(layer):
        error = _fault(build.name, layer)
        if error is None and build.name in _functions:
            found = build.name
            break
        refused.append((build, error))
    _say_why(refused, layer, found or "a slower implementation")
    return found


def at_hand(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether a build was installed for such layers; torch's own does not count."""
    names = [build.name for build in _candidates(Layer(device, dtype, head_dim)) if build is not TORCH]
    return any(_load(name) is None and name in _functions for name in names)


def attend(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: BlockDiagonalMask,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    """Calls the build of that name, which was chosen, with the arguments that the layer needs alone. They and
    the result are those of `packed_attention`."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    found = _functions[name](
        q,
        k,
        v,
        cu_seqlens_q=mask.cu_seqlens,
        cu_seqlens_k=mask.cu_seqlens,
        max_seqlen_q=mask.max_seqlen,
        max_seqlen_k=mask.max_seqlen,
        softmax_scale=scale,
        causal=mask.causal,
        **({} if mask.window is None else {"window_size": mask.window}),
        **({} if softcap is None else {"softcap": softcap}),
        **({"deterministic": True} if deterministic else {}),
    )
    return found[0] if isinstance(found, tuple) else found  # some hand over the log-sum-exp too


def _arguments(layer: Layer) -> set[str]:
    """What `attend` will hand over that not every version has an argument for."""
    asked = {
        "window_size": layer.windowed,
        "softcap": layer.capped,
        "deterministic": layer.deterministic,
    }
    return {name for name, needed in asked.items() if needed}


def _package(module: str) -> Callable[..., Any] | None:
    """The function of an installed package."""
    return importlib.import_module(module).flash_attn_varlen_func if _installed(module) else None


def _installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    # A folder of that name is no package: the folder kernels/ of a checkout, or what FA4 puts in flash_attn.
    return spec is not None and spec.origin is not None


def cached_kernel(repository: str, version: int) -> Any | None:
    """A build of the `kernels` package, out of its cache, as a module; None without the package. Raises
    NotFetched for one that the cache lacks, or whatever a broken build raises."""
    if not _installed("kernels"):
        return None
    kernels = importlib.import_module("kernels")
    try:
        folder = kernels.install_kernel(repository, version=version, local_files_only=True)
    except (FileNotFoundError, ValueError) as error:  # its words for what is not in the cache
        raise NotFetched("its cache has none for this torch and machine") from error
    return kernels.get_local_kernel(folder)


def _torch_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = UNLIMITED,
    deterministic: bool = False,  # noqa: ARG001  it obeys torch's own switch
) -> Tensor:
    """torch's own, in the words of the others."""
    left, right = window_size
    return varlen.varlen_attn(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        scale=softmax_scale,
        window_size=(left, 0 if causal else right),  # it has no argument but the window for causality
        **GROUPED,
    )  # type: ignore[return-value]


def _of_kernels(repository: str, version: int, hopper: bool = False) -> Build:
    fetch = f"from kernels import install_kernel; install_kernel({repository!r}, version={version})"

    def load() -> Callable[..., Any] | None:
        module = cached_kernel(repository, version)
        return None if module is None else module.flash_attn_varlen_func

    return Build(f"{repository} of kernels", load, f'to fetch it, python -c "{fetch}"', hopper)


TORCH = Build("torch's varlen_attn", lambda: _torch_varlen, "install a torch for this GPU")
BUILDS = (
    Build(
        "FA3 (flash_attn_interface)",
        partial(_package, "flash_attn_interface"),
        "build it for this torch, in the folder hopper of flash-attention, or uninstall flash-attn-3",
        hopper=True,
    ),
    _of_kernels(*KERNELS_FA3, hopper=True),
    Build(
        "FA2 (flash_attn)",
        partial(_package, "flash_attn"),
        "build it for this torch (pip install --no-build-isolation --no-deps --no-cache-dir "
        "--force-reinstall flash-attn), or uninstall it",
    ),
    _of_kernels(*KERNELS_FA2),
    TORCH,
)


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of an NVIDIA GPU; (0, 0) of anything else."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _candidates(layer: Layer) -> list[Build]:
    """The builds that are made for such a GPU, precision and head dimension."""
    fit = layer.dtype in DTYPES and layer.head_dim % 8 == 0 and layer.head_dim <= LARGEST_HEAD_DIM
    found = capability(layer.device)
    if not fit or found < OLDEST:
        return []
    builds = [build for build in BUILDS if not build.hopper or found == HOPPER]
    return [build for build in builds if build is not TORCH or not layer.capped]  # which cannot cap


_functions: dict[str, Callable[..., Any]] = {}
"""The `flash_attn_varlen_func` of each build that was loaded."""


@cache
def _load(name: str) -> Exception | None:
    """Loads the build of that name, if it is installed; returns what went wrong."""
    try:
        function = next(build for build in BUILDS if build.name == name).load()
    except Exception as error:  # a broken package may raise anything; what it was stands in the log
        return error
    if function is not None:
        _functions[name] = function
    return None


def _fault(name: str, layer: Layer) -> Exception | None:
    """Why the build of that name cannot run such a layer; None if it can, or is not installed."""
    error = _load(name)
    if error is not None or name not in _functions:
        return error
    if lacking := _arguments(layer) - inspect.signature(_functions[name]).parameters.keys():
        return TypeError(f"it has no argument {min(lacking)}")
    try:
        # A thread of its own knows nothing of inference mode, autocast, checkpointing's hooks or other modes.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_try, name, layer).result()
    except Exception as error:  # torch, CUDA and the build each have errors of their own
        return error
    return None


def _say_why(refused: list[tuple[Build, Exception | None]], layer: Layer, instead: str) -> None:
    """A line for each build that is broken, and for the fastest that could be fetched; each fault once."""
    hinted = False
    for build, error in refused:
        if error is None or (hinted and isinstance(error, NotFetched)):
            continue
        hinted = hinted or isinstance(error, NotFetched)
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if (build.name, why) not in _said:
            _said.add((build.name, why))
            kind = "" if error is _load(build.name) else f" ({_description(layer)})"
            log.warning(
                "attention without column sums%s runs %s instead of %s: %s; %s",
                *(kind, instead, build.name, why, build.remedy),
            )


_said: set[tuple[str, str]] = set()


def _description(layer: Layer) -> str:
    asked = [name for name, value in layer._asdict().items() if value is True]
    return ", ".join([str(layer.dtype).removeprefix("torch."), f"head dimension {layer.head_dim}", *asked])


def _try(name: str, layer: Layer) -> None:
    """Raises RuntimeError if a build does not give what the definition gives, or what it raises itself."""
    lengths = [5, 1, 19]
    shape = sum(lengths), 2, layer.head_dim
    random = torch.Generator().manual_seed(0)
    window = ((3, 0) if layer.causal else (3, 2)) if layer.windowed else None
    softcap = 0.5 if layer.capped else None
    scale = layer.head_dim**-0.5
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(layer.device)
    mask = BlockDiagonalMask(bounds, max(lengths), layer.causal, window)
    with torch.set_grad_enabled(layer.gradient):
        q, k, v = (torch.randn(shape, generator=random).to(layer.device, layer.dtype) for _ in range(3))
        if layer.grouped:
            q = torch.cat([q, q.roll(1, 0)], dim=1)
        inputs = [x.requires_grad_(layer.gradient) for x in (q, k, v)]
        found = attend(name, q, k, v, mask, scale, softcap)
        visibility = Visibility.of(layer.causal, window)
        expected, _, _ = reference.packed(q, k, v, bounds, max(lengths), scale, visibility, softcap)
        pairs = [(found, expected)]
        if layer.gradient:
            upstream = q.detach().roll(1, -1)
            gradients = (torch.autograd.grad(out, inputs, upstream) for out in (found, expected))
            pairs += zip(*gradients, strict=True)
    for theirs, ours in pairs:
        off = ((theirs.float() - ours.float()).norm() / ours.float().norm()).item()
        if not off <= TOLERANCE:  # as NaN is not
            raise RuntimeError("its results are wrong")
