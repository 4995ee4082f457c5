"""Losses, one a file. The trainer knows the interface in `base` alone.

A new one is a file with a class and its settings, and a line in each of the two tables here.
"""

from mgh_ds.losses.base import Loss
from mgh_ds.losses.gather import Exchange
from mgh_ds.losses.info_nce import InfoNCE, InfoNCESettings

AnyLossSettings = InfoNCESettings
LOSSES: dict[type, type[Loss]] = {InfoNCESettings: InfoNCE}


def make_loss(settings: AnyLossSettings, exchange: Exchange) -> Loss:
    """The loss that a recipe's `training.loss` names."""
    return LOSSES[type(settings)](settings, exchange)
