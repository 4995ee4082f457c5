"""FLOPs of a model against sums by hand, and devices by the names that drivers give them."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel, BertConfig, MistralConfig

from mgh_ds.model.config import LoraConfig, ModelConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.training.batch import Size
from mgh_ds.training.flops import PEAKS, ModelFlops, peak_flops

MISTRAL_7B = MistralConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=32000,
)
MINILM = BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)


def backbone(config: MistralConfig | BertConfig, *, trained: bool) -> torch.nn.Module:
    with torch.device("meta"):
        options = {"add_pooling_layer": False} if isinstance(config, BertConfig) else {}
        return AutoModel.from_config(config, **options).requires_grad_(trained)


def work(*lengths: int) -> Size:
    return Size.of([[*lengths], []])


def test_mistral_7b_by_hand() -> None:
    # A block: queries and output 4096 · 4096 each, keys and values 4096 · 1024 each, three of 4096 · 14336.
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert weights == 6_979_321_856
    flops = ModelFlops.of(backbone(MISTRAL_7B, trained=True))
    assert flops == ModelFlops(frozen=0, trained=weights, attention=32 * 4096)
    # 512 tokens of one text: 6 · 6.98e9 · 512 = 21.44e12, and 12 · 131,072 · 262,144 = 0.41e12 for attention.
    assert flops.of_step(work(512)) == 6 * weights * 512 + 12 * 131_072 * 512**2
    assert flops.of_step(work(512)) == pytest.approx(21.85e12, rel=1e-3)
    two_texts = flops.of_step(work(256, 256))
    assert flops.of_step(work(512)) - two_texts == 12 * 131_072 * (512**2 - 2 * 256**2)


def test_minilm_by_hand() -> None:
    # A block: four of 384 · 384, two of 384 · 1536.
    weights = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert weights == 10_616_832
    flops = ModelFlops.of(backbone(MINILM, trained=False))
    assert flops == ModelFlops(frozen=weights, trained=0, attention=6 * 384)
    # Frozen: forward, and backward the activations' gradient alone; attention in full.
    assert flops.of_step(work(10, 30)) == 4 * weights * 40 + 12 * 2304 * (100 + 900)


def test_adapters_are_trained_and_what_they_sit_on_is_not() -> None:
    model, _ = build_model(ModelConfig(name_or_path="tiny-random/mistral", lora=LoraConfig(rank=4)))
    plain, _ = build_model(ModelConfig(name_or_path="tiny-random/mistral", lora=None))
    adapted, whole = ModelFlops.of(model.backbone), ModelFlops.of(plain.backbone)
    assert adapted.frozen == whole.trained
    assert adapted.trained == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    assert adapted.attention == whole.attention
    assert whole.frozen == 0


def test_a_head_of_its_own_width_counts() -> None:
    config = SimpleNamespace(hidden_size=64, num_attention_heads=4, num_hidden_layers=3, head_dim=32)
    assert ModelFlops.of(SimpleNamespace(modules=list, config=config)).attention == 3 * 4 * 32


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10", "A10"),
        ("Tesla V100-SXM2-32GB", "V100 SXM2"),
        ("Tesla V100-PCIE-16GB", "V100"),
        ("Tesla T4", "T4"),
    ],
)
def test_a_device_is_known_by_the_words_of_its_name(name: str, row: str) -> None:
    assert peak_flops(name, "float32") == PEAKS[row].float32 * 1e12
    expected = PEAKS[row].bfloat16
    assert peak_flops(name, "bfloat16") == (expected and expected * 1e12)


def test_tf32_counts_where_float32_is_rounded_to_it() -> None:
    assert peak_flops("NVIDIA H200", "float32", tf32=True) == 494.7e12
    assert peak_flops("NVIDIA H200", "bfloat16", tf32=True) == 989.4e12
    assert peak_flops("Tesla T4", "float32", tf32=True) == 8.1e12, "it has no TF32"


@pytest.mark.parametrize(
    "name", ["CPU (x86_64, 2 cores)", "NVIDIA A10G", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA B9000", ""]
)
def test_other_devices_are_unknown(name: str) -> None:
    assert peak_flops(name, "float32") is None
