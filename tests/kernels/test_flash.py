"""Which build of flash attention runs a layer, and what is said of those that cannot."""

import socket

import pytest
import torch
from ata_attention import flash
from ata_attention.flash import Layer

from tests.flash_builds import ASKED, FA2, FA3, HUB, KERNELS, PACKAGES, RAN, TORCH

CPU = torch.device("cpu")  # pretended to be a GPU
LAYER = Layer(CPU, torch.bfloat16, 64, gradient=True)
ALL = PACKAGES | HUB
HUB3, HUB2 = HUB
FASTEST_FIRST = ["flash_attn_interface", HUB3, "flash_attn", HUB2]
BODY = FA2.index("    assert dropout_p")  # where the stand-in's own code begins


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("nobody asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def ran(layer=LAYER):
    """The build that is chosen for such a layer, by the stand-in that was called last."""
    RAN.clear()
    flash._chosen.cache_clear()
    return RAN[-1][0] if flash.chosen(layer) else None


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == flash.log.name]


def test_the_fastest_that_is_there_is_chosen(flash_builds):
    there = dict(ALL)
    for name in FASTEST_FIRST:
        flash_builds(there)
        assert ran() == name
        del there[name]
    flash_builds(there)
    assert ran() == TORCH


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0), (12, 0)])
def test_fa3_is_for_hopper_alone(capability, flash_builds, caplog):
    flash_builds(ALL, capability)
    assert ran() == "flash_attn"
    flash_builds({name: code for name, code in ALL.items() if name != "flash_attn"}, capability)
    assert ran() == HUB2
    assert ASKED == [(HUB2, 3)], "FA3 was not even looked for"
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("capability", "layer"),
    [
        ((7, 5), LAYER),
        ((0, 0), LAYER),
        ((9, 0), LAYER._replace(dtype=torch.float32)),
        ((9, 0), LAYER._replace(head_dim=20)),
        ((9, 0), LAYER._replace(head_dim=512)),
    ],
)
def test_what_no_build_is_made_for_is_handed_to_none(capability, layer, flash_builds, monkeypatch, caplog):
    flash_builds(ALL, capability, dtypes=(torch.bfloat16, torch.float16))
    monkeypatch.setattr(flash, "BUILDS", [build._replace(load=pytest.fail) for build in flash.BUILDS])
    assert flash.chosen(layer) is None
    assert not flash.at_hand(layer.device, layer.dtype, layer.head_dim)
    assert lines(caplog) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
def test_every_kind_of_layer_is_tried_before_it_is_trusted(dtype, head_dim, flash_builds):
    flash_builds(ALL)
    layer = LAYER._replace(dtype=dtype, head_dim=head_dim, grouped=True, gradient=False)
    assert ran(layer) == "flash_attn_interface"
    plain = {"causal": False, "window": (-1, -1), "softcap": 0.0, "gradient": False}
    assert [("flash_attn_interface", plain)] == RAN
    ran(layer._replace(causal=True, windowed=True, capped=True, gradient=True))
    asked = {"causal": True, "window": (3, 0), "softcap": 0.5, "gradient": True}
    assert [("flash_attn_interface", asked)] == RAN


BROKEN = {
    "a symbol of another torch": (
        'raise ImportError("flash_attn_2_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEa")',
        "ImportError: flash_attn_2_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEa",
    ),
    "a library that is not there": (
        'raise OSError("libcudart.so.12: cannot open shared object file")',
        "OSError: libcudart.so.12: cannot open shared object file",
    ),
    "no function": ("__version__ = '2.8.3'", "AttributeError: module 'flash_attn' has no attribute"),
    "another GPU": (
        FA2[:BODY] + '    raise RuntimeError("CUDA error: no kernel image is available\\nfor execution")',
        "RuntimeError: CUDA error: no kernel image is available for execution",
    ),
    "another ABI": (
        FA2[:BODY] + '    raise TypeError("varlen_fwd(): incompatible function arguments")',
        "TypeError: varlen_fwd(): incompatible function arguments",
    ),
    "no gradient": (
        FA2.replace("q, k, v, bounds", "q.detach(), k.detach(), v.detach(), bounds"),
        "RuntimeError: element 0 of tensors does not require grad",
    ),
    "wrong numbers": (
        FA2.replace("softmax_scale, causal", "1.5 * softmax_scale, causal"),
        "RuntimeError: its results are wrong",
    ),
    "NaN": (
        FA2.replace("softmax_scale, causal", "softmax_scale * float('nan'), causal"),
        "RuntimeError: its results are wrong",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_build_costs_one_line_and_the_next_runs(fault, flash_builds, caplog):
    code, why = BROKEN[fault]
    flash_builds({"flash_attn": code})
    assert [ran(), ran(), ran(LAYER._replace(grouped=True))] == [TORCH] * 3
    (line,) = lines(caplog)
    assert "\n" not in line
    kind = " (bfloat16, head dimension 64, gradient)" if FA2[:BODY] in code else ""
    start = f"attention without column sums{kind} runs torch's varlen_attn instead of FA2 (flash_attn): "
    assert line.startswith(start + why)
    assert line.endswith(
        "; build it for this torch (pip install --no-build-isolation --no-deps --no-cache-dir "
        "--force-reinstall flash-attn), or uninstall it"
    )


def test_where_all_are_broken_the_plain_attention_runs(flash_builds, caplog, monkeypatch):
    broken = FA3.replace("return run(", "raise RuntimeError('no kernel image') or run(")
    flash_builds({"flash_attn_interface": broken, "flash_attn": broken})
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", lambda *_, **__: 1 / 0)
    assert ran() is None
    found = lines(caplog)
    assert [line.split(":")[0].split("instead of ")[1] for line in found] == [
        "FA3 (flash_attn_interface)",
        "FA2 (flash_attn)",
        "torch's varlen_attn",
    ]
    assert all("runs a slower implementation" in line for line in found)
    assert flash.at_hand(CPU, torch.bfloat16, 64), "loaded, as far as anyone can tell before it has run"


def test_a_layer_is_handed_only_to_a_build_that_can_take_it(flash_builds, caplog):
    """One is too old for caps, one was made without windows; each runs all other layers."""
    old = FA2.replace("softcap=0.0, alibi", "alibi").replace("softcap=softcap, ", "")
    limited = FA3.replace(
        "    bounds,",
        "    if window_size != (-1, -1):\n        raise RuntimeError('built without local')\n    bounds,",
        1,
    )
    flash_builds({"flash_attn_interface": limited, "flash_attn": old})
    assert ran() == "flash_attn_interface"
    assert ran(LAYER._replace(causal=True, grouped=True, capped=True)) == "flash_attn_interface"
    assert lines(caplog) == []
    assert ran(LAYER._replace(windowed=True)) == "flash_attn"
    assert ran(LAYER._replace(windowed=True, capped=True)) is None
    kind, first, second = "(bfloat16, head dimension 64, windowed", *lines(caplog)
    assert f"{kind}, gradient) runs FA2 (flash_attn) instead of FA3" in first
    assert "RuntimeError: built without local; " in first
    assert f"{kind}, capped, gradient) runs a slower implementation instead of FA2" in second
    assert "TypeError: it has no argument softcap; " in second


def test_a_build_without_a_backward_pass_still_serves(flash_builds, caplog):
    forward_only = FA3.replace("q, k, v, bounds", "q.detach(), k.detach(), v.detach(), bounds")
    flash_builds({"flash_attn_interface": forward_only, "flash_attn": FA2})
    assert ran(LAYER._replace(gradient=False)) == "flash_attn_interface"
    assert lines(caplog) == []
    assert ran() == "flash_attn"
    assert "runs FA2 (flash_attn) instead of FA3 (flash_attn_interface): RuntimeError" in lines(caplog)[0]


def test_a_build_that_returns_more_than_the_output_is_understood(flash_builds):
    flash_builds(
        {
            "flash_attn_interface": FA3.replace("return run(", "return run(").replace(
                "**options)", "**options), None"
            )
        }
    )
    assert ran() == "flash_attn_interface"


def test_determinism_is_asked_for_where_torch_was_asked_for_it(flash_builds, caplog):
    flash_builds({"flash_attn": FA2, "flash_attn_interface": FA3.replace("deterministic=False,\n", "\n", 1)})
    torch.use_deterministic_algorithms(True)
    try:
        assert ran(LAYER._replace(deterministic=True)) == "flash_attn"
    finally:
        torch.use_deterministic_algorithms(False)
    assert "TypeError: it has no argument deterministic" in lines(caplog)[0]


def test_builds_that_were_not_fetched_cost_one_hint_and_no_network(flash_builds, caplog):
    """The line that the hint ends in is the user's to run."""
    flash_builds({"kernels": KERNELS})
    assert ran() == TORCH
    assert ASKED == [(HUB3, 1), (HUB2, 3)]
    (line,) = lines(caplog)
    assert "NotFetched: its cache has none for this torch and machine" in line
    assert line.endswith(
        """to fetch it, python -c "from kernels import install_kernel; """
        """install_kernel('kernels-community/flash-attn3', version=1)\""""
    )
    caplog.clear()
    flash_builds({"kernels": KERNELS, HUB2: FA2})
    assert ran() == HUB2
    assert len(lines(caplog)) == 1, "the faster one is worth a hint"


def test_folders_without_a_package_are_none(flash_builds, caplog, tmp_path):
    """A checkout has a folder kernels/, as the package is called; FA4 alone leaves flash_attn/cute."""
    flash_builds({})
    for folder in ("kernels/ata_attention", "flash_attn/cute"):
        (tmp_path / "site" / folder).mkdir(parents=True)
        (tmp_path / "site" / folder / "__init__.py").touch()
    assert ran() == TORCH
    assert not flash.at_hand(CPU, torch.bfloat16, 64)
    assert lines(caplog) == []
    assert ASKED == []


def test_a_trial_leaves_random_numbers_and_modes_alone(flash_builds):
    flash_builds(ALL)
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert ran() == "flash_attn_interface"
        assert torch.is_inference_mode_enabled()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert ran(LAYER._replace(dtype=torch.float16)) == "flash_attn_interface"
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
