"""Weights between those that training began with and the trained ones (WiSE-FT).

Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903: w(α) = (1 − α) · w₀ + α · w.
Adapters add B·A to a layer, from B = 0 on: α · B beside A as it is gives just these weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mgh_ds.model.adapters import DOWN
from mgh_ds.training.state import trainable


def between(start: Tensor, learnt: Tensor, share: float, name: str) -> Tensor:
    """The parameter `name` at a share α of what was learnt: float32. `start` is what training began with, in
    the model's precision, `learnt` the trained weight in float32."""
    if share == 1 or name.endswith(DOWN):
        return learnt
    return start.float().lerp(learnt, share)


class Interpolation:
    """Shows a model in training at a share of what it has learnt.

    Args:
        model: as training begins with it. Where the share is below 1 a copy of its trained weights is kept on
            the CPU, in the model's precision: of adapters it is small, of a whole model as large as that.
        share: α, from 0, where training began, to 1, the trained weights.
    """

    def __init__(self, model: torch.nn.Module, share: float) -> None:
        self.share = share
        self._start: dict[str, Tensor] = {}
        if share < 1:
            self._start = {
                name: parameter.detach().to("cpu", copy=True)
                for name, parameter in trainable(model).items()
                if not name.endswith(DOWN)
            }

    @contextmanager
    def shown(self, engine: Any) -> Iterator[None]:
        """Within it the engine's model has the weights between; after it the trained ones again, to the bit.
        A collective: all ranks enter and leave it together. An error within ends the run, and sets nothing
        back: a rank that was lost could not take part."""
        if self.share < 1:
            self._set(engine, self.share)
        yield
        if self.share < 1:
            self._set(engine, 1.0)

    def _set(self, engine: Any, share: float) -> None:
        """From the engine's float32 weights, a tensor at a time."""
        from deepspeed.utils import safe_get_full_fp32_param

        parameters = trainable(engine.module)
        for name, start in self._start.items():  # of the others every share is the whole
            weight = safe_get_full_fp32_param(parameters[name])
            if share < 1:
                weight = between(start.to(weight.device), weight, share, name)
            parameters[name].data.copy_(weight)
