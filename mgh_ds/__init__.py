"""mgh-ds: text-embedding models trained on graded hard negatives, with anchor-token-aware pooling.

`from mgh_ds import Encoder` is the way in. Heavy libraries are imported by the job that needs them, so this
import is fast.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Encoder", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Encoder":
        from mgh_ds.model.encoder import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
