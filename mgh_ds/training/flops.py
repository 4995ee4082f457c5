"""Model FLOPs utilisation: what training a batch takes at least, and what a device could do in the time."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mgh_ds.training.batch import Size


@dataclass(frozen=True)
class ModelFlops:
    """The floating-point operations that training needs, whatever the implementation spends.

    Chowdhery et al., "PaLM: Scaling language modeling with pathways", 2022, appendix B: two for each weight
    of a matrix product and token, and for attention 4 · layers · width for each pair of tokens of a text
    (queries with keys, weights with values), in the forward pass. The backward pass takes as many for the
    gradient of the activations and, where a weight is trained, as many again for its own; both factors of
    attention are activations. A second forward pass, of gradient caching or of activation checkpointing, is
    not counted, nor are embedding tables, norms, softmax and pooling. Attention counts whole, as there, even
    where it is causal.
    """

    frozen: int  # weights of matrix products that tokens pass
    trained: int  # the same, of those that are trained
    attention: int  # layers · width, the width being that of all query heads together

    @classmethod
    def of(cls, backbone: Any) -> "ModelFlops":
        """Of a transformers model, or one in PEFT's wrapper; its tensors may lie on the meta device."""
        weights = [layer.weight for layer in backbone.modules() if isinstance(layer, torch.nn.Linear)]
        config = backbone.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            frozen=sum(weight.numel() for weight in weights if not weight.requires_grad),
            trained=sum(weight.numel() for weight in weights if weight.requires_grad),
            attention=config.num_hidden_layers * config.num_attention_heads * head,
        )

    def of_step(self, work: Size) -> float:
        """Of forward and backward pass over these texts."""
        weights = 4.0 * self.frozen + 6.0 * self.trained
        return weights * work.tokens + 12.0 * self.attention * work.squared_lengths


class Peak(NamedTuple):
    """What a device can do with dense matrices, in TFLOP/s; None where it has no units for the format."""

    bfloat16: float | None
    tf32: float | None
    float32: float


# By the words of the name that the driver gives, the more special ones first. From NVIDIA's data sheets of
# each, at boost clock and without sparsity, with which they often name twice as much.
PEAKS: dict[str, Peak] = {
    "H200 NVL": Peak(835.5, 417.5, 60.0),
    "H200": Peak(989.4, 494.7, 66.9),  # the H100's chip with more memory
    "GH200": Peak(989.4, 494.7, 66.9),
    "H100 PCIe": Peak(756.0, 378.0, 51.2),
    "H100 NVL": Peak(835.5, 417.5, 60.0),
    "H100": Peak(989.4, 494.7, 66.9),  # SXM, whose name has the kind of its memory
    "A100": Peak(312.0, 156.0, 19.5),
    "A40": Peak(149.7, 74.8, 37.4),
    "A30": Peak(165.0, 82.0, 10.3),
    "A10": Peak(125.0, 62.5, 31.2),
    "L40S": Peak(362.0, 183.0, 91.6),
    "L40": Peak(181.0, 90.5, 90.5),
    "L4": Peak(121.0, 60.0, 30.3),
    "V100 SXM2": Peak(None, None, 15.7),
    "V100": Peak(None, None, 14.0),  # PCIe
    "T4": Peak(None, None, 8.1),
}


def peak_flops(device_name: str, dtype: str, *, tf32: bool = False) -> float | None:
    """What the named device can do at most, in FLOP/s; None for one that is not in the table, for slices of
    one, and for formats that it has no units for.

    Args:
        device_name: as `torch.cuda.get_device_name` says it.
        dtype: of the weights: "bfloat16" or "float32".
        tf32: whether float32 products may be rounded to TF32.
    """
    words = re.findall(r"\w+", device_name)
    for name, peak in PEAKS.items():
        if set(name.split()) <= set(words) and "MIG" not in words:
            tera = getattr(peak, "tf32" if tf32 and dtype == "float32" and peak.tf32 else dtype, None)
            return None if tera is None else tera * 1e12
    return None
