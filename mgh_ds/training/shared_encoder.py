"""An encoder for rank 0 whose texts all ranks encode: evaluation in the loop takes 1/W of the time.

Rank 0 alone runs the evaluation. For each call it sends the texts to all ranks, every rank encodes its
share, and rank 0 gets the vectors. A call's texts are cut into batches, longest first, as `Encoder` does it,
and batch b is rank b mod W's: the batches, and so the vectors' bits, are the same for every number of ranks,
and long and short ones are shared out evenly.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import (
    broadcast_bytes,
    device,
    gather_bytes,
    gather_on_main,
    is_main,
    rank,
    world_size,
)
from mgh_ds.distributed.watchdog import is_lost_connection
from mgh_ds.model.config import PoolingMethod
from mgh_ds.model.encoder import Encoder

Result = TypeVar("Result")


class SharedEncoder:
    """Rank 0's side, with the surface of `Encoder` that an evaluation needs."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.name: str = encoder.name
        self.pooling: PoolingMethod = encoder.pooling
        self.max_length: int = encoder.max_length
        self.use_instructions: bool = encoder.use_instructions
        self.prompt: str = encoder.prompt
        self.origin: Mapping[str, Any] = encoder.origin
        self.dim: int = encoder.dim
        self.parallel = world_size()

    def encode(
        self, texts: Sequence[str], instruction: str | None = None, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """As `Encoder.encode`: float32 [len(texts), dim], of unit length.

        Raises MghError for what any rank could not encode, with that rank's number.
        """
        if len(texts) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        call = list(texts), instruction, batch_size
        # Half a surrogate pair comes through as it is, and the encoder refuses it in its own words.
        broadcast_bytes(json.dumps(call, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        vectors = _encode_together(self._encoder, *call)
        assert vectors is not None
        return vectors


def on_all_ranks(encoder: Encoder, work: Callable[[SharedEncoder], Result]) -> Result | None:
    """Rank 0's result of `work`, for which the other ranks help to encode; None on those.

    What `work` raises is raised on rank 0, once the others are released. Every rank must call it.
    """
    if not is_main():
        while message := broadcast_bytes():
            _encode_together(encoder, *json.loads(message.decode("utf-8", "surrogatepass")))
        return None
    try:
        result = work(SharedEncoder(encoder))
    except Exception as error:
        if not is_lost_connection(error):  # there is nobody left to release
            broadcast_bytes(b"")
        raise
    broadcast_bytes(b"")
    return result


def _encode_together(
    encoder: Encoder, texts: list[str], instruction: str | None, batch_size: int
) -> NDArray[np.float32] | None:
    """The vectors of `texts` on rank 0, None on the others. Raises MghError on rank 0 alone."""
    longest_first = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    batches = [longest_first[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    shares = [batches[number :: world_size()] for number in range(world_size())]
    most = max(sum(map(len, share)) for share in shares)
    problem = ""
    try:
        # All memory is taken here: who fails later would leave the others waiting.
        own = torch.zeros((most, encoder.dim), dtype=torch.float32, device=device())
        room = [torch.empty_like(own) for _ in shares] if is_main() else []
        place = 0
        for batch in shares[rank()]:
            vectors = encoder.encode([texts[i] for i in batch], instruction, batch_size)
            own[place : place + len(batch)] = torch.from_numpy(vectors)
            place += len(batch)
    except Exception as error:
        if is_lost_connection(error):
            raise
        problem = str(error) if isinstance(error, MghError) else f"{type(error).__name__}: {error}"
    problems = [text.decode() for text in gather_bytes(problem.encode("utf-8", "replace"))]
    for number, found in enumerate(problems):
        if found:
            if is_main():
                raise MghError(f"rank {number}: {found}")
            return None
    gather_on_main(own, room)
    if not is_main():
        return None
    result = np.empty((len(texts), encoder.dim), dtype=np.float32)
    for share, rows in zip(shares, room, strict=True):
        places = [i for batch in share for i in batch]
        result[places] = rows[: len(places)].cpu().numpy()
    return result
