"""Adapters that were trained before, merged into the backbone before anything else is done with it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mgh_ds.common.errors import MghError

# What a run calls its adapters' matrices: the layer's own name between the two.
BEFORE = "backbone.base_model.model."
DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class Adapter:
    """Low-rank adapters of one run.

    Attributes:
        name: what messages call it.
        scale: alpha / rank.
        names: of its matrices, as the run's parameters are called.
        read: one of them, float32, on the CPU.
    """

    name: str
    scale: float
    names: Collection[str]
    read: Callable[[str], Tensor]


@torch.no_grad()
def merge(backbone: nn.Module, adapter: Adapter) -> None:
    """Adds `scale · B·A` to the weight of each layer that has an adapter, in place; summed in float32 and
    rounded once to the weight's precision. Raises MghError if the matrices do not fit the backbone."""
    left = set(adapter.names)
    for name in sorted(left):
        if not (name.startswith(BEFORE) and name.endswith(DOWN)):
            continue
        layer = name.removeprefix(BEFORE).removesuffix(DOWN)
        up = f"{BEFORE}{layer}{UP}"
        try:
            weight: Tensor = backbone.get_submodule(layer).weight  # type: ignore[assignment]
            delta = adapter.scale * (adapter.read(up) @ adapter.read(name))
            weight.copy_(weight.float() + delta.to(weight.device))
        except (AttributeError, KeyError, RuntimeError) as error:
            raise MghError(f"model.adapters: {adapter.name} does not fit layer {layer}: {error}") from None
        left -= {name, up}
    if left:
        raise MghError(f"model.adapters: {adapter.name} has more than adapters of linear layers: {min(left)}")
