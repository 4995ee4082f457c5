"""Which tokens of a text are masked, and what stands in their place: a function of seed, step and record.

No rank, micro-batch or generator bears on it, so every number of ranks and every resumed run masks the same.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from mgh_ds.curriculum.loader import MicroBatch
from mgh_ds.curriculum.mixing import fold_key, mix64
from mgh_ds.model.batches import TokenBatch
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.columns import hash64
from mgh_ds.training.batch import Size
from mgh_ds.training.objectives import MntpSettings

# What each text's draws are for.
WHETHER, HOW, WHICH = range(3)


@dataclass(frozen=True)
class MaskedBatch:
    """m texts, of whose tokens p are to be predicted."""

    tokens: TokenBatch  # with what stands in the masked tokens' places
    places: torch.Tensor  # int64 [p]: where these are, counted through the batch's rows
    targets: torch.Tensor  # int64 [p]: which tokens they are
    owners: torch.Tensor  # int64 [p]: whose, 0 … m − 1
    ids: list[str]  # of the records, [m]; "" for an empty place
    seed: int  # of dropout
    size: Size

    def to(self, device: torch.device) -> "MaskedBatch":
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("places", "targets", "owners")
        }
        return replace(self, tokens=self.tokens.to(device), **moved)


class Masking:
    """Draws the masks of a run.

    Args:
        settings: shares and kinds of replacement.
        mask_id: the token that masks.
        seed: the run's.
    """

    def __init__(self, settings: MntpSettings, mask_id: int, seed: int) -> None:
        self.settings, self.mask_id, self.seed = settings, mask_id, seed

    def masked(self, texts: MicroBatch, tokenizer: Tokenizer, step: int) -> MaskedBatch:
        """The queries of a micro-batch, which are its texts, without instructions."""
        tokens = tokenizer.tokenize(texts.queries)
        special = np.array(sorted(tokenizer.backend.all_special_ids))
        vocabulary = len(tokenizer.backend)
        input_ids = tokens.input_ids.clone().flatten()
        numbers = torch.arange(input_ids.numel()).view(tokens.input_ids.shape)
        parts = []
        for owner, (name, own) in enumerate(zip(texts.ids, tokens.unpacked(numbers), strict=True)):
            ids, key = input_ids[own].numpy(), fold_key(self.seed, step, hash64(name))
            chosen, put = self._draw(ids, ~np.isin(ids, special), vocabulary, key)
            places = own[torch.from_numpy(chosen)]
            parts.append((places, input_ids[places], torch.full_like(places, owner)))
            input_ids[places] = torch.from_numpy(put)
        places, targets, owners = map(torch.cat, zip(*parts, strict=True))
        return MaskedBatch(
            tokens=tokens._replace(input_ids=input_ids.view(tokens.input_ids.shape)),
            places=places,
            targets=targets,
            owners=owners,
            ids=texts.ids,
            seed=texts.seed,
            size=Size.of([tokens.lengths.tolist()]),
        )

    def _draw(
        self, ids: np.ndarray, plain: np.ndarray, vocabulary: int, key: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The places that are masked in one text and what is put there, int64 [p]. The first token is never
        chosen, since no state comes before it; one at least is where there is any."""
        plain[:1] = False
        places = np.flatnonzero(plain)
        draws = _uniform(places, fold_key(key, WHETHER))
        chosen = places[(draws < self.settings.mask_share) | (draws == draws.min(initial=1))]
        how, settings = _uniform(chosen, fold_key(key, HOW)), self.settings
        anything = (mix64(chosen, fold_key(key, WHICH)) % np.uint64(vocabulary)).astype(np.int64)
        put = np.full_like(chosen, self.mask_id)
        put = np.where(how < settings.random_share + settings.kept_share, ids[chosen], put)
        return chosen, np.where(how < settings.random_share, anything, put)


def _uniform(places: np.ndarray, key: int) -> np.ndarray:
    """A number from 0 up to 1 for each place, float64."""
    return (mix64(places, key) >> np.uint64(11)) * 2.0**-53
