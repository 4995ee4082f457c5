"""From token ids that a server made to the batch that `Encoder` would have made of the same texts.

A server hands on tokens, not where the instruction before a text ends. That is found again: the tokens'
text begins with one of the export's named prompts, or with what its instruction template makes of any
instruction.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from operator import eq

from mgh_ds.model.batches import PackedBatch, Row
from mgh_ds.model.tokens import Tokenizer


def longest_prompt(tokenizer: Tokenizer) -> int:
    """Tokens of the longest prompt: EOS, where `tokenizer` puts it behind the text, comes to it here."""
    return tokenizer.max_length - tokenizer.appends


def split(ids: Sequence[int], positions: Sequence[int]) -> list[Sequence[int]]:
    """The token ids of each text of a flat batch, in which its tokens' positions count from 0."""
    starts = [place for place, position in enumerate(positions) if position == 0 or place == 0]
    return [ids[start:end] for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]


class TextReader:
    """Puts around tokens what `tokenizer` does, and marks which may be pooled.

    `prompts` are those that the export has names for.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: Iterable[str] = ()) -> None:
        self.tokenizer = tokenizer
        probe = tokenizer.backend(["a"]).encodings[0]
        self.opening = probe.ids[: probe.special_tokens_mask.index(0)]
        self.prompts: dict[str, list[int]] = {}
        self.template: re.Pattern[str] | None = None
        self.first: set[int] = set()  # tokens with which an instruction may begin
        if tokenizer.use_instructions and not tokenizer.include_instruction:
            self._learn({tokenizer.prompt, *prompts} - {""})

    def batch(self, texts: Iterable[Sequence[int]]) -> PackedBatch:
        """The texts, given as a backend's token ids, special ones included."""
        return PackedBatch.of([self.row(ids) for ids in texts])

    def row(self, ids: Sequence[int]) -> Row:
        """One text's tokens, as `Tokenizer.rows` has them."""
        ids = list(ids)
        opened = len(self.opening) if ids[: len(self.opening)] == self.opening else 0
        pooled = [True] * len(ids)
        told = self._tokens_of_instruction(ids[opened:])
        pooled[opened : opened + told] = [False] * told
        if opened and not self.tokenizer.include_bos:
            pooled[0] = False
        if self.tokenizer.appends:
            return [*ids, self.tokenizer.backend.eos_token_id], [*pooled, True]
        return ids, pooled

    def _learn(self, prompts: Iterable[str]) -> None:
        """Prompts are kept as their tokens read: in small letters, where the tokenizer makes them so."""
        for prompt in sorted(prompts, key=len, reverse=True):
            if tokens := self._encode(prompt):  # every text begins with a prompt of none
                self.prompts[self._decode(tokens)] = tokens
        head = self.tokenizer.instruction_template.removesuffix("{text}")
        before, after = (self._decode(self._encode(part)) for part in head.split("{instruction}"))
        # With nothing to know it by, every text would seem to begin with an instruction.
        if before.strip() and after.strip():
            self.template = re.compile(f"{re.escape(before)}.+?{re.escape(after)}", re.DOTALL)
        self.first = {tokens[0] for tokens in self.prompts.values()}
        if self.template:
            self.first.add(self._encode(before)[0])

    def _tokens_of_instruction(self, ids: list[int]) -> int:
        """How many tokens at the beginning lie wholly in an instruction. One that straddles its end is the
        text's, as in `Tokenizer`: the instruction's own tokens then are others from there on."""
        if not ids or ids[0] not in self.first:
            return 0
        text = self._decode(ids)
        tokens = next((tokens for prompt, tokens in self.prompts.items() if text.startswith(prompt)), None)
        if tokens is None and self.template is not None and (found := self.template.match(text)):
            tokens = self._encode(found[0])
        return sum(1 for _ in takewhile(bool, map(eq, ids, tokens or ())))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.backend(text, add_special_tokens=False)["input_ids"]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.backend.decode(ids, clean_up_tokenization_spaces=False)
