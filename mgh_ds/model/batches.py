"""What a model reads: the tokens of several texts, padded to one length or packed one after another.

Both kinds answer the same questions, so that models, pooling and training need not ask which they have.
Values per token are `[B, N, …]` in a padded batch and `[T, …]` in a packed one; values per text are `[S, …]`
in both (S = B).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Row = tuple[list[int], list[bool]]
"""Token ids of one text, and which of them may be pooled."""


class PaddedBatch(NamedTuple):
    """Every text a row, filled up to the longest.

    Attributes:
        input_ids: int64 `[B, N]`.
        attention_mask: bool `[B, N]`, True where there is a token.
        pooling_mask: bool `[B, N]`, True at tokens that may carry weight in the pooling.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pooling_mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], padding_id: int, side: Literal["left", "right"]) -> "PaddedBatch":
        """Rows of any lengths, padded with `padding_id` on the given side."""
        shape = len(rows), max((len(ids) for ids, _ in rows), default=0)
        input_ids = torch.full(shape, padding_id, dtype=torch.int64)
        attention_mask, pooling_mask = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
        for i, (ids, pooled) in enumerate(rows):
            first = 0 if side == "right" else shape[1] - len(ids)
            place = slice(first, first + len(ids))
            input_ids[i, place] = torch.tensor(ids)
            attention_mask[i, place] = True
            pooling_mask[i, place] = torch.tensor(pooled)
        return cls(input_ids, attention_mask, pooling_mask)

    def to(self, device: torch.device | str) -> "PaddedBatch":
        return PaddedBatch(*(tensor.to(device) for tensor in self))

    @property
    def texts(self) -> int:
        return self.input_ids.shape[0]  # len() would be a constant in a graph

    @property
    def tokens(self) -> int:
        """Number of tokens, padding not counted. Waits for the GPU if the batch is on one."""
        return int(self.attention_mask.sum())

    @property
    def token_mask(self) -> Tensor:
        """Bool, per token: True where there is one."""
        return self.attention_mask

    @property
    def position_ids(self) -> Tensor:
        """int64, per token: its place in its text, from 0, whatever the side of the padding."""
        return (self.attention_mask.long().cumsum(1) - 1).clamp_min(0)

    @property
    def lengths(self) -> Tensor:
        """int64, per text: its number of tokens."""
        return self.attention_mask.sum(1)

    @property
    def first_pooled(self) -> Tensor:
        """Bool, per token: True at the first of its text that may be pooled."""
        return self.pooling_mask & (self.pooling_mask.cumsum(1) == 1)

    def spread(self, values: Tensor) -> Tensor:
        """Values per text `[S, …]`, brought to each of its tokens."""
        return values[:, None].expand(*self.input_ids.shape, *values.shape[1:])

    def total(self, weights: Tensor) -> Tensor:
        """Values per token, 0 at padding, added up per text: `[S, …]`."""
        return weights.sum(1)

    def weighted_sum(self, weights: Tensor, states: Tensor) -> Tensor:
        """`Σ_j w_j h_j` over each text's tokens `j`: `[S, D]`, fp32."""
        return torch.bmm(weights[:, None], states.float())[:, 0]

    def unpacked(self, values: Tensor) -> list[Tensor]:
        """The values of each text's own tokens. Waits for the GPU if the batch is on one."""
        return [row[tokens] for row, tokens in zip(values, self.attention_mask, strict=True)]

    def backbone_inputs(self, first_position: int) -> dict[str, Any]:
        """Keywords of a transformers model whose texts begin at position `first_position`."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids + first_position,
        }


class PackedBatch(NamedTuple):
    """One text after another, without padding.

    Attributes:
        input_ids: int64 `[T]`.
        position_ids: int64 `[T]`, from 0 in each text.
        pooling_mask: bool `[T]`, True at tokens that may carry weight in the pooling.
        cu_seqlens: int32 `[S + 1]`: text `s` has the tokens `cu_seqlens[s]` up to `cu_seqlens[s + 1]`.
        max_seqlen: tokens of the longest text; on the host, so that nobody waits for a GPU to learn it.
    """

    input_ids: Tensor
    position_ids: Tensor
    pooling_mask: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "PackedBatch":
        """Rows of any lengths, in their order."""
        lengths = [len(ids) for ids, _ in rows]
        return cls(
            input_ids=torch.tensor([token for ids, _ in rows for token in ids], dtype=torch.int64),
            position_ids=torch.tensor([place for n in lengths for place in range(n)], dtype=torch.int64),
            pooling_mask=torch.tensor([mark for _, pooled in rows for mark in pooled], dtype=torch.bool),
            cu_seqlens=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
            max_seqlen=max(lengths, default=0),
        )

    def to(self, device: torch.device | str) -> "PackedBatch":
        return PackedBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.pooling_mask.to(device),
            self.cu_seqlens.to(device),
            self.max_seqlen,
        )

    @property
    def texts(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.input_ids)

    @property
    def token_mask(self) -> Tensor:
        """Bool, per token: True."""
        return torch.ones_like(self.pooling_mask)

    @property
    def lengths(self) -> Tensor:
        """int32, per text: its number of tokens."""
        return self.cu_seqlens.diff()

    @property
    def first_pooled(self) -> Tensor:
        """Bool, per token: True at the first of its text that may be pooled."""
        counts = torch.nn.functional.pad(self.pooling_mask.cumsum(0), (1, 0))
        before = counts[self.cu_seqlens[:-1].long()]  # pooled tokens of the texts before
        return self.pooling_mask & (counts[1:] == self.spread(before) + 1)

    def spread(self, values: Tensor) -> Tensor:
        """Values per text `[S, …]`, brought to each of its tokens."""
        # With the size of the result given, nothing waits for the GPU.
        return values.repeat_interleave(self.lengths, dim=0, output_size=self.tokens)

    def total(self, weights: Tensor) -> Tensor:
        """Values per token, added up per text: `[S, …]`; 0 for a text without tokens."""
        return self._sums(weights)

    def weighted_sum(self, weights: Tensor, states: Tensor) -> Tensor:
        """`Σ_j w_j h_j` over each text's tokens `j`: `[S, D]`, fp32; 0 for a text without tokens."""
        return self._sums(weights[:, None] * states.float())

    def _sums(self, values: Tensor) -> Tensor:
        # Each sum is one loop over one text: no atomic additions, hence the same bits every time, and a NaN
        # stays in its text. `unsafe` leaves out a check that waits for the GPU.
        return torch.segment_reduce(values, "sum", offsets=self.cu_seqlens, unsafe=True)

    def unpacked(self, values: Tensor) -> list[Tensor]:
        """The values of each text's tokens. Waits for the GPU if the batch is on one."""
        return list(values.split(self.lengths.tolist()))

    def backbone_inputs(self, first_position: int) -> dict[str, Any]:
        """Keywords of a transformers model whose texts begin at position `first_position`, and which runs
        `ata_attention.transformers`."""
        return {
            "input_ids": self.input_ids[None],
            # Without a mask transformers would find the borders of texts in the position ids, which waits for
            # the GPU, and make an n × n mask of them. An empty mask is the mask function's sign for none.
            "attention_mask": self.pooling_mask.new_empty(1, 0),
            "position_ids": self.position_ids[None] + first_position,
            "cu_seq_lens_q": self.cu_seqlens,
            "cu_seq_lens_k": self.cu_seqlens,
            "max_length_q": self.max_seqlen,
            "max_length_k": self.max_seqlen,
        }


TokenBatch = PaddedBatch | PackedBatch
