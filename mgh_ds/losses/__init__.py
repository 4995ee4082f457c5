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
    """The loss that a recipe's `training.loss` names; with a guide, by which it may mask, its labels have the
    guide's vectors."""
    module, name = LOSSES[type(settings)].split(":")
    loss: Loss = getattr(importlib.import_module(module), name)(settings, exchange, guide)
    return loss
