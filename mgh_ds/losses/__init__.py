"""Losses, one a file. The trainer knows the interface in `base` alone.

A new one is a file with a class, and in `settings` the class of its settings and a row.
"""

import importlib
from typing import TYPE_CHECKING

from mgh_ds.losses.settings import LOSSES, AnyLossSettings, InfoNCESettings, LossSettings

if TYPE_CHECKING:
    from mgh_ds.losses.base import Loss
    from mgh_ds.losses.gather import Exchange
    from mgh_ds.losses.settings import GuideSettings

__all__ = ["AnyLossSettings", "InfoNCESettings", "make_loss"]


def make_loss(settings: LossSettings, exchange: "Exchange", guide: "GuideSettings | None" = None) -> "Loss":
    """The loss that a recipe's `training.loss` names. One that a guide masks for wants the guide's vectors
    among its labels."""
    module, name = LOSSES[type(settings)].split(":")
    kind = getattr(importlib.import_module(module), name)
    is_guided = guide is not None and any(part.guided for part in settings.parts())
    loss: Loss = kind(settings, exchange, guide) if is_guided else kind(settings, exchange)
    return loss
