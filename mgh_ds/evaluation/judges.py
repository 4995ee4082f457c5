"""Models that look at other people's data: an embedder's cosines, or a cross-encoder's verdict on pairs."""

import numpy as np
from numpy.typing import NDArray

from mgh_ds.common.errors import MghError
from mgh_ds.common.protocols import Embed, ScorePairs
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.hf_logging import quiet

SCORES_PAIRS = ("ForSequenceClassification", "ForCausalLM")  # the latter by the logits of yes and no


def load_embedder(name: str, pooling: PoolingMethod) -> Embed:
    """Unit vectors by any Encoder: `[n, dim]` for n texts. Raises MghError if the model cannot be loaded."""
    encoder = Encoder.from_pretrained(name, pooling=pooling)

    def embed(texts: list[str]) -> NDArray[np.float32]:
        return encoder.encode(texts, batch_size=64, progress=len(texts) > 2_000)

    return embed


def load_cross_encoder(name: str) -> ScorePairs:
    """Probabilities of relevance by a sentence-transformers cross-encoder: `[n]` for n pairs of texts.

    Raises MghError if the model cannot be loaded, was never trained to score pairs, or gives them more than
    one number.
    """
    from safetensors import SafetensorError
    from sentence_transformers import CrossEncoder
    from torch.nn import Sigmoid

    try:
        with quiet():
            model = CrossEncoder(name)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise MghError(f"the cross-encoder {name!r} cannot be loaded: {reason}") from None

    architecture = (getattr(model.config, "architectures", None) or ["no"])[0]
    if not architecture.endswith(SCORES_PAIRS):
        raise MghError(
            f"the cross-encoder {name!r} has the architecture {architecture}: its weights lack a head "
            "for scores, and a random one would judge"
        )
    if model.num_labels != 1:
        raise MghError(
            f"the cross-encoder {name!r} gives {model.num_labels} numbers a pair: a judge gives one"
        )

    def score(pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        scores = model.predict(pairs, activation_fn=Sigmoid(), show_progress_bar=len(pairs) > 2_000)
        return np.asarray(scores, dtype=np.float32)

    return score
