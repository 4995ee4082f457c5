"""Texts and instructions to tensors: what the backbone reads, and which of its tokens may be pooled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Encoding
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mgh_ds.common.errors import MghError
from mgh_ds.model.batches import PackedBatch, PaddedBatch, Row, TokenBatch
from mgh_ds.model.config import INSTRUCTION_TEMPLATE
from mgh_ds.model.weights import VOCABULARIES

# Less would not hold a text beside the special tokens.
SHORTEST = 4


class Tokenizer:
    """A Hugging Face fast tokenizer (`backend`), with instructions, truncation and pooling masks.

    With `append_eos` a text is closed by the EOS token if the backend does not close it by itself, as those
    of Llama, Mistral and Qwen do not: the last token is then the same for every text, wherever it was cut.
    `prompt` precedes each text that has no instruction.
    """

    def __init__(
        self,
        backend: PreTrainedTokenizerBase,
        *,
        max_length: int,
        instruction_template: str = INSTRUCTION_TEMPLATE,
        use_instructions: bool = True,
        prompt: str = "",
        append_eos: bool = True,
        include_bos: bool = True,
        include_instruction: bool = False,
        padding_free: bool = True,
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        """`padding_free` packs batches instead of padding them on `padding_side`.

        Raises MghError for a slow tokenizer, one without an end token, and settings that make no sense.
        """
        if not backend.is_fast:
            raise MghError(
                f"{type(backend).__name__} is a slow tokenizer: the model's folder needs a tokenizer.json"
            )
        if max_length < SHORTEST:
            raise MghError(f"max_length is {max_length}; expected {SHORTEST} or more")
        head = instruction_template.removesuffix("{text}")
        if head == instruction_template or head.count("{instruction}") != 1:
            raise MghError(
                f"instruction_template is {instruction_template!r}; "
                "it must hold {instruction} once and end with {text}"
            )
        # A text is cut at its end whatever the backend would do: its beginning is the instruction.
        backend.truncation_side = "right"
        self.backend = backend
        self.max_length = max_length
        self.instruction_template = instruction_template
        self.use_instructions = use_instructions
        self.prompt = prompt
        self.append_eos = append_eos
        self.include_bos = include_bos
        self.include_instruction = include_instruction
        self.padding_free = padding_free
        self.padding_side = padding_side
        probe = self._encode(["a"], max_length)[0].special_tokens_mask
        self.opens, self.closes = probe[0] == 1, probe[-1] == 1
        self.appends = append_eos and not self.closes
        if self.appends and backend.eos_token_id is None:
            raise MghError(
                "the tokenizer neither closes a text by itself nor has an EOS token to close it with"
            )

    @classmethod
    def from_pretrained(cls, folder: Path, **options: Any) -> "Tokenizer":
        """The tokenizer in `folder`; options as in the constructor. Raises MghError if there is none."""
        # transformers would make one up that knows special tokens only.
        if not any((folder / name).exists() for name in VOCABULARIES):
            raise MghError(f"{folder} holds no tokenizer: it has none of {', '.join(VOCABULARIES)}")
        try:
            backend = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # whatever a malformed file leads to; tokenizers raises nothing narrower
            raise MghError(f"{folder} holds no readable tokenizer: {error!r}") from error
        return cls(backend, **options)

    def check_vocabulary(self, rows: int, name: Path | str) -> None:
        """Raises MghError if a token has no row among the `rows` of the model's embedding table, be it in the
        vocabulary or only in what is put around a text."""
        known = {i: token for token, i in self.backend.get_vocab().items()}
        around = set(self._encode(["a"], self.max_length)[0].ids)
        beyond = sorted((i, known.get(i, "")) for i in around | known.keys() if i >= rows)
        if beyond:
            number, token = beyond[0]
            raise MghError(
                f"{name}: {len(beyond)} tokens have no row in the embedding table of {rows}, of them "
                f"{token!r} with number {number}: resize the table, or take the tokens away"
            )

    def save(self, folder: Path) -> None:
        """Writes the backend to `folder`, without the truncation that was set for the last batch."""
        self.backend.backend_tokenizer.no_truncation()
        self.backend.save_pretrained(folder)

    def tokenize(self, texts: Sequence[str], instructions: Sequence[str | None] | None = None) -> TokenBatch:
        """Tokens of `texts`, each after its instruction if it has one, else after `prompt`; packed or padded.

        What exceeds `max_length` is cut off the text's end; the instruction and the special tokens stay.
        Raises MghError if an instruction leaves no room for its text.
        """
        return self.collate(self.rows(texts, instructions))

    def rows(self, texts: Sequence[str], instructions: Sequence[str | None] | None = None) -> list[Row]:
        """As `tokenize`, before the texts become a batch."""
        if not self.use_instructions:
            return self._rows([""] * len(texts), texts)
        if instructions is None:
            return self._rows([self.prompt] * len(texts), texts)
        if len(instructions) != len(texts):
            raise MghError(
                f"{len(texts)} texts but {len(instructions)} instructions: give one, or None, for each"
            )
        return self._rows([self.prefix(instruction) for instruction in instructions], texts)

    def prefix(self, instruction: str | None) -> str:
        """What precedes a text that is read under `instruction`, or under none."""
        if not instruction:
            return self.prompt
        return self.instruction_template.removesuffix("{text}").replace("{instruction}", instruction)

    def tokenize_after(self, prefixes: Sequence[str], texts: Sequence[str]) -> TokenBatch:
        """As `tokenize`, with the instructions spelled out as what precedes each text; "" is none."""
        return self.collate(self._rows(prefixes, texts))

    def _rows(self, prefixes: Sequence[str], texts: Sequence[str]) -> list[Row]:
        joined = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
        encodings = self._encode(joined, self.max_length - self.appends)
        return [self._row(*row) for row in zip(encodings, prefixes, strict=True)]

    def _encode(self, texts: list[str], room: int) -> list[Encoding]:
        """Encodings of at most `room` tokens, with the special tokens that the backend adds by itself."""
        if not texts:
            return []
        return self.backend(texts, truncation=True, max_length=room).encodings

    def _row(self, encoding: Encoding, prefix: str) -> Row:
        """One text's tokens. A token that straddles the border between prefix and text is the text's."""
        ids, pooled = encoding.ids, [True] * len(encoding.ids)
        if prefix:
            special = encoding.special_tokens_mask
            of_text = [
                mark == 0 and end > len(prefix)
                for mark, (_, end) in zip(special, encoding.offsets, strict=True)
            ]
            if encoding.overflowing and not any(of_text):
                raise MghError(
                    f"max_length {self.max_length} leaves no room for a text after {prefix[:80]!r}"
                )
            if not self.include_instruction:
                pooled = [mark == 1 or own for mark, own in zip(special, of_text, strict=True)]
        if self.opens and not self.include_bos:
            pooled[0] = False
        return ([*ids, self.backend.eos_token_id], [*pooled, True]) if self.appends else (ids, pooled)

    def collate(self, rows: Sequence[Row]) -> TokenBatch:
        """The texts as one batch; packed or padded."""
        if self.padding_free:
            return PackedBatch.of(rows)
        # A decoder without a padding token takes EOS for it: the mask, not the token, says what is padding.
        candidates = self.backend.pad_token_id, self.backend.eos_token_id, 0
        padding = next(token for token in candidates if token is not None)
        return PaddedBatch.of(rows, padding, self.padding_side)
