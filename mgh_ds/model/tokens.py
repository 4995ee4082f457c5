"""Texts and instructions to tensors: what is fed to the backbone, and which tokens may be pooled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mgh_ds.errors import MghError
from mgh_ds.model.config import INSTRUCTION_TEMPLATE


class TokenBatch(NamedTuple):
    """A padded batch: `input_ids` int64 `[B, N]`, `attention_mask` bool `[B, N]` (True = token), and `pooling_mask` bool
    `[B, N]` (True = token that may carry weight in the pooling)."""

    input_ids: Tensor
    attention_mask: Tensor
    pooling_mask: Tensor

    def to(self, device: torch.device | str) -> "TokenBatch":
        return TokenBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Tokenizer:
    """A Hugging Face fast tokenizer, with instructions, truncation and pooling masks.

    A text is closed by the EOS token if the tokenizer does not close it by itself (those of Llama, Mistral and Qwen2 do not):
    a decoder's last token should be the same for every text, whatever was cut off.
    """

    def __init__(
        self,
        backend: PreTrainedTokenizerFast,
        *,
        max_length: int = 512,
        instruction_template: str = INSTRUCTION_TEMPLATE,
        use_instructions: bool = True,
        include_bos: bool = True,
        include_instruction: bool = False,
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        if not backend.is_fast:
            raise MghError(f"{type(backend).__name__} is a slow tokenizer without offsets; the model needs a tokenizer.json")
        head = instruction_template.removesuffix("{text}")
        if head == instruction_template or head.count("{instruction}") != 1:
            raise MghError(
                f"instruction_template is {instruction_template!r}; it must hold {{instruction}} once and end with {{text}}"
            )
        self.backend = backend
        self.max_length = max_length
        self.instruction_template = instruction_template
        self.use_instructions = use_instructions
        self.include_bos = include_bos
        self.include_instruction = include_instruction
        self.padding_side = padding_side
        ids, marks = self._encode(["a"], None, max_length)[0][:2]
        self.opens = bool(marks[0])
        self.closes = bool(marks[-1]) and len(ids) > 1
        if not self.closes and backend.eos_token_id is None:
            raise MghError("the tokenizer neither closes a text with a special token nor has an EOS token to close it with")
        self.pad_token_id = next((i for i in (backend.pad_token_id, backend.eos_token_id) if i is not None), 0)

    @classmethod
    def from_pretrained(cls, folder: Path, **options: object) -> "Tokenizer":
        """The tokenizer in `folder`; options as in the constructor."""
        return cls(AutoTokenizer.from_pretrained(folder), **options)  # type: ignore[arg-type]

    def tokenize(self, texts: Sequence[str], instructions: Sequence[str | None] | None = None) -> TokenBatch:
        """Tokens of `texts`, each after its instruction if it has one, padded to the longest.

        What is longer than `max_length` is cut at the end of the text; the instruction and the special tokens stay. Raises
        MghError if an instruction leaves no room for its text.
        """
        return self.tokenize_after(texts, self._prefixes(len(texts), instructions))

    def tokenize_after(self, texts: Sequence[str], prefixes: Sequence[str]) -> TokenBatch:
        """As `tokenize`, but each text follows a prefix that is spelled out (an empty one counts as none)."""
        room = self.max_length - (0 if self.closes else 1)
        rows = [self._row(*encoded, prefix) for encoded, prefix in zip(self._encode(texts, prefixes, room), prefixes, strict=True)]
        longest = max((len(ids) for ids, _ in rows), default=0)
        batch = TokenBatch(
            torch.full((len(rows), longest), self.pad_token_id, dtype=torch.int64),
            torch.zeros(len(rows), longest, dtype=torch.bool),
            torch.zeros(len(rows), longest, dtype=torch.bool),
        )
        for i, (ids, pooled) in enumerate(rows):
            place = slice(0, len(ids)) if self.padding_side == "right" else slice(longest - len(ids), longest)
            batch.input_ids[i, place] = torch.tensor(ids)
            batch.attention_mask[i, place] = True
            batch.pooling_mask[i, place] = torch.tensor(pooled)
        return batch

    def save(self, folder: Path) -> None:
        """Writes the Hugging Face tokenizer to `folder`, without the truncation that was set for the last batch."""
        self.backend.backend_tokenizer.no_truncation()
        self.backend.save_pretrained(folder)

    def _prefixes(self, count: int, instructions: Sequence[str | None] | None) -> list[str]:
        if instructions is None or not self.use_instructions:
            return [""] * count
        if len(instructions) != count:
            raise MghError(f"{count} texts but {len(instructions)} instructions: give one (or None) for each text")
        head = self.instruction_template.removesuffix("{text}")
        return [head.replace("{instruction}", instruction) if instruction else "" for instruction in instructions]

    def _encode(
        self, texts: Sequence[str], prefixes: Sequence[str] | None, room: int
    ) -> list[tuple[list[int], list[int], list[tuple[int, int]]]]:
        """Token ids, marks of special tokens and character offsets of each text, cut to `room` tokens."""
        if not texts:
            return []
        joined = list(texts) if prefixes is None else [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
        encoded = self.backend(
            joined,
            truncation=True,
            max_length=room,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            return_token_type_ids=False,
            return_attention_mask=False,
        )
        return list(
            zip(encoded["input_ids"], encoded["special_tokens_mask"], encoded["offset_mapping"], strict=True)
        )

    def _row(
        self, ids: list[int], special: list[int], offsets: list[tuple[int, int]], prefix: str
    ) -> tuple[list[int], list[bool]]:
        """Closes one text and says which of its tokens may be pooled."""
        # A token belongs to the instruction if it ends within it: one that straddles the border belongs to the text.
        instruction = [not mark and end <= len(prefix) for mark, (_, end) in zip(special, offsets, strict=True)]
        if prefix and not any(not mark and not told for mark, told in zip(special, instruction, strict=True)) and (
            len(ids) >= self.max_length - (0 if self.closes else 1)
        ):
            raise MghError(
                f"an instruction of {sum(instruction)} tokens or more leaves no room for its text within "
                f"max_length={self.max_length}: {prefix[:80]!r}…"
            )
        pooled = [self.include_instruction or not told for told in instruction]
        if self.opens and not self.include_bos:
            pooled[0] = False
        if not self.closes:
            ids, pooled = [*ids, self.backend.eos_token_id], [*pooled, True]
        return ids, pooled
