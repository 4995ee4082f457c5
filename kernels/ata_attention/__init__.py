"""Attention that also returns how much attention each key received, with gradients through both.

`ata_attention` is the one function to call and `AtaOutput` what it returns. The package depends on torch
alone.
"""

from ata_attention.interface import AtaOutput, ata_attention

__all__ = ["AtaOutput", "ata_attention"]
