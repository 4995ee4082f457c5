"""Models as judges of other people's data: an embedder's cosines, or a cross-encoder's verdict on pairs."""

import numpy as np
from numpy.typing import NDArray

from mgh_ds.common.errors import MghError
from mgh_ds.common.protocols import Embed, ScorePairs
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.encoder import Encoder


def embedder_judge(name: str, pooling: PoolingMethod) -> Embed:
    """Unit vectors by any Encoder: `[n, dim]` for n texts. Raises MghError if the model cannot be loaded."""
    encoder = Encoder.from_pretrained(name, pooling=pooling)

    def embed(texts: list[str]) -> NDArray[np.float32]:
        return encoder.encode(texts, batch_size=64, progress=len(texts) > 2_000)

    return embed


def cross_encoder_judge(name: str) -> ScorePairs:
    """Probabilities of relevance by a sentence-transformers cross-encoder: `[n]` for n pairs of texts.

    Raises MghError if the model cannot be loaded.
    """
    from sentence_transformers import CrossEncoder
    from torch.nn import Sigmoid

    try:
        model = CrossEncoder(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MghError(f"the cross-encoder {name!r} cannot be loaded: {reason}") from None

    def score(pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        scores = model.predict(pairs, activation_fn=Sigmoid(), show_progress_bar=len(pairs) > 2_000)
        return np.asarray(scores, dtype=np.float32)

    return score
