"""Stand-ins for the builds of flash attention: packages with the real signatures, computing by one matrix."""

import importlib
import shutil
import sys

import pytest
import torch
from ata_attention import flash
from torch.nn.attention import varlen

# flash-attn 2.8, flash_attn/flash_attn_interface.py; the same in kernels-community/flash-attn2.
FA2 = """
from tests.flash_builds import run

def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
    causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False, block_table=None,
):
    assert dropout_p == 0.0 and alibi_slopes is None and block_table is None and not return_attn_probs
    bounds, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    options = dict(window=window_size, softcap=softcap, deterministic=deterministic)
    return run("NAME", q, k, v, bounds, longest, softmax_scale, causal, **options)
"""
# flash-attention 3, hopper/flash_attn_interface.py; the same in kernels-community/flash-attn3.
FA3 = """
from tests.flash_builds import run

def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
    softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
    window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
    sm_margin=0, return_attn_probs=False,
):
    assert all(x is None for x in (seqused_q, seqused_k, qv, q_descale, k_descale, v_descale, pack_gqa))
    assert (attention_chunk, num_splits, sm_margin, return_attn_probs) == (0, 1, 0, False)
    bounds, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    options = dict(window=window_size, softcap=softcap, deterministic=deterministic)
    return run("NAME", q, k, v, bounds, longest, softmax_scale, causal, **options)
"""
# kernels 0.17.2, kernels/install.py and kernels/load.py.
KERNELS = """
import importlib.util
from pathlib import Path
from tests.flash_builds import ASKED

CACHE = Path(__file__).parents[2] / "cache"

def install_kernel(
    repo_id, *, revision=None, version=None, backend=None, local_files_only=False, user_agent=None,
    trust_remote_code=False,
):
    assert local_files_only and trust_remote_code is False and revision is None and backend is None
    ASKED.append((repo_id, version))
    folder = CACHE / repo_id
    if not folder.exists():
        raise ValueError(f"Version {version} of '{repo_id}' is not available in the local cache")
    return folder

def get_local_kernel(repo_path, *, backend=None, trust_remote_code=False, user_agent=None):
    assert trust_remote_code is False and backend is None
    spec = importlib.util.spec_from_file_location(repo_path.name.replace("-", "_"), repo_path / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def get_kernel(*_, **__):
    raise AssertionError("this one asks the hub")
"""
HUB = {"kernels-community/flash-attn3": FA3, "kernels-community/flash-attn2": FA2}
PACKAGES = {"flash_attn_interface": FA3, "flash_attn": FA2, "kernels": KERNELS}
TORCH = "torch"

RAN: list[tuple[str, dict]] = []
"""Which build ran, and with what: a mask's options alone."""
ASKED: list[tuple[str, int]] = []
"""The builds that were looked for in the cache of `kernels`."""


def run(name, q, k, v, bounds, longest, scale, causal, window=(-1, -1), softcap=0.0, deterministic=False):
    """What a flash kernel of that name does: -1 is no limit on that side of the window, 0.0 no cap."""
    assert bounds[0] is bounds[1]
    assert bounds[0].dtype == torch.int32
    assert bounds[0].is_contiguous()
    assert longest[0] == longest[1] >= bounds[0].diff().max()
    assert bounds[0][-1] == len(q) == len(k) == len(v), "rows that are no tokens"
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    assert deterministic == torch.are_deterministic_algorithms_enabled()
    RAN.append((name, {"causal": causal, "window": window, "softcap": softcap, "gradient": q.requires_grad}))
    dtype = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    places = torch.arange(len(q))
    sequence = torch.bucketize(places, bounds[0][1:].long(), right=True)
    distance = places - places[:, None]
    visible = sequence == sequence[:, None]
    left, right = window[0], 0 if causal else window[1]
    if left >= 0:
        visible = visible & (distance >= -left)
    if right >= 0:
        visible = visible & (distance <= right)
    keys, values = (x.to(dtype).repeat_interleave(group, dim=1) for x in (k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):  # a kernel knows nothing of it
        scores = torch.einsum("ihd,jhd->hij", q.to(dtype), keys) * scale
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return torch.einsum("hij,jhd->ihd", weights, values).to(q.dtype)


def varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """torch's own; it takes fewer key heads if it is told so."""
    assert enable_gqa
    bounds, longest = (cu_seq_q, cu_seq_k), (max_q, max_k)
    deterministic = torch.are_deterministic_algorithms_enabled()
    options = {"window": window_size, "deterministic": deterministic}
    return run(TORCH, query, key, value, bounds, longest, scale, False, **options)


@pytest.fixture
def flash_builds(monkeypatch, tmp_path):
    """Pretends that the CPU is a GPU on which these builds are installed: the code of packages, and of builds
    in the cache of `kernels`, each under its name."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def pretend(builds, capability=(9, 0), dtypes=(torch.bfloat16, torch.float16, torch.float32)):
        for place in ("site", "cache"):
            shutil.rmtree(tmp_path / place, ignore_errors=True)
        for name, code in builds.items():
            folder = tmp_path / ("cache" if "/" in name else "site") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").write_text(code.replace("NAME", name))
        importlib.invalidate_caches()
        monkeypatch.setattr(flash, "capability", lambda _: capability)
        monkeypatch.setattr(flash, "DTYPES", dtypes)
        monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
        forget()

    yield pretend
    forget()


def forget():
    """As in a new process."""
    for name in PACKAGES:
        sys.modules.pop(name, None)
    flash._chosen.cache_clear()
    flash._load.cache_clear()
    for known in (flash._functions, flash._said, RAN, ASKED):
        known.clear()
