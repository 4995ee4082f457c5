"""`dtype: auto` chooses what a device has units for."""

import pytest
import torch

from mgh_ds.model.precision import default_device, settle

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("units", "chosen"),
    [
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "float32"),
        ({"avx512_bf16": True, "cpu_name": "INTEL(R) XEON(R)"}, "float32"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bfloat16"),
        ({"avx512_f": True, "cpu_name": "AMD EPYC"}, "float32"),
    ],
)
def test_a_cpu_is_asked_for_its_units(units, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, **units})
    assert settle("auto", CPU) == chosen
    assert settle("float32", CPU) == "float32", "what is asked for by name stays"


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), "bfloat16"), ((7, 5), "float32")])
def test_a_gpu_is_asked_for_its_generation(capability, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert settle("auto", torch.device("cuda")) == chosen
    assert settle("bfloat16", torch.device("cuda")) == "bfloat16"


def test_the_default_device_is_a_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == torch.device("cuda")
