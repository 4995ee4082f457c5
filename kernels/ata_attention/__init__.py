"""Attention that also returns how much attention each key received, with gradients through both.

`ata_attention` is the one function to call and `AtaOutput` what it returns. `ata_attention.transformers`
registers it with transformers, `ata_attention.packed` has plain attention over packed sequences. Importing
the package itself needs torch alone.
"""

from ata_attention.interface import AtaOutput, ata_attention

__all__ = ["AtaOutput", "ata_attention"]
