"""What autocast asks of attention: its precision at the door, and to be off behind it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Some devices, such as meta, have none to turn off."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def in_autocast(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The precision in which attention on tensors of that kind is computed: autocast's, where it is on."""
    kind = device.type
    if (
        dtype != torch.float32
        or not torch.amp.is_autocast_available(kind)
        or not torch.is_autocast_enabled(kind)
    ):
        return dtype
    return torch.get_autocast_dtype(kind)
