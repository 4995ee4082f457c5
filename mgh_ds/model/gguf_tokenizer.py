"""The tokenizer of a GGUF file.

transformers builds it from vocabulary and merges. Where a text is split before the merges, and which tokens
are put around it, a GGUF says by a name and two flags: transformers applies some of these names and no flag.
The rest is done here.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mgh_ds.common.errors import MghError
from mgh_ds.model.gguf_file import GgufFile
from mgh_ds.model.hf_logging import quiet


def _as_it_is(_: RawTokenizer) -> None:
    """transformers knows all of it."""


def _digits_apart(raw: RawTokenizer) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    raw.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _whole_words_first(raw: RawTokenizer) -> None:
    raw.model.ignore_merges = True


def _composed(raw: RawTokenizer) -> None:
    raw.normalizer = normalizers.NFC()


@dataclass(frozen=True)
class Splitting:
    """A value of `tokenizer.ggml.pre`: what is to be done to transformers' tokenizer, and whether BOS opens a
    text where the file does not say."""

    mend: Callable[[RawTokenizer], None]
    opens: bool = False


SPLITTINGS = {
    "gpt-2": Splitting(_as_it_is),
    "smollm": Splitting(_digits_apart),
    "starcoder": Splitting(_digits_apart),
    "refact": Splitting(_digits_apart),
    "llama-bpe": Splitting(_whole_words_first, opens=True),
    "llama3": Splitting(_whole_words_first, opens=True),
    "tekken": Splitting(_whole_words_first, opens=True),
    "qwen2": Splitting(_composed),
}
SENTENCEPIECE = Splitting(_as_it_is, opens=True)


def gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """The tokenizer of `file`, with its chat template, if it has one.

    Raises MghError for one of another kind than byte-level or SentencePiece BPE, one that splits texts in an
    unknown way, and one whose tokens are not those of the embedding table.
    """
    splitting = _splitting(file)
    raw = _without_strangers(_transformers_tokenizer(file.path), len(file.tokens))
    splitting.mend(raw)
    _check_numbers(file, raw)
    special = {name: str(raw.id_to_token(number)) for name, number in file.special.items()}
    flags = {name: file.metadata.get(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos")}
    opens = splitting.opens if flags["bos"] is None else flags["bos"]
    around = [name for name, wanted in (("bos", opens), ("eos", flags["eos"])) if wanted]
    if missing := [name for name in around if name not in special]:
        raise MghError(f"{file.path}: its tokenizer puts a {missing[0]} token around texts, and names none")
    before = f"{special['bos']} " if "bos" in around else ""
    after = f" {special['eos']}" if "eos" in around else ""
    raw.post_processor = processors.TemplateProcessing(
        single=f"{before}$A{after}",
        special_tokens=[(special[name], file.special[name]) for name in around],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=int(file.metadata[f"{file.architecture}.context_length"]),
        **{f"{name}_token": token for name, token in special.items()},
    )
    tokenizer.chat_template = file.metadata.get("tokenizer.chat_template")
    return tokenizer


def _splitting(file: GgufFile) -> Splitting:
    kind, name = (file.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind == "gpt2" and name in SPLITTINGS:
        return SPLITTINGS[name]
    if kind == "gpt2":
        raise MghError(
            f"{file.path}: tokenizer.ggml.pre is {name!r}, a way of splitting texts unknown to mgh-ds, which "
            f"knows {', '.join(SPLITTINGS)}"
        )
    if kind != "llama" or not file.metadata.get("tokenizer.ggml.add_space_prefix", True):
        raise MghError(
            f"{file.path}: tokenizer.ggml.model is {kind!r}; mgh-ds reads 'gpt2', and 'llama' with a space "
            "before the text, from GGUF"
        )
    return SENTENCEPIECE


def _transformers_tokenizer(path: Path) -> RawTokenizer:
    # By itself: a tokenizer_config.json beside the file would have a say.
    with tempfile.TemporaryDirectory() as folder, quiet():
        Path(folder, "model.gguf").symlink_to(path.resolve())
        try:
            found = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf", trust_remote_code=False)
        except (
            Exception
        ) as error:  # whatever a malformed vocabulary leads to; tokenizers raises nothing narrower
            raise MghError(f"{path} holds no usable tokenizer: {error!r}") from error
    return found.backend_tokenizer


def _without_strangers(raw: RawTokenizer, count: int) -> RawTokenizer:
    """Without the special token of GPT-2 that transformers adds, beyond the embedding table, to a vocabulary
    that lacks it."""
    described = json.loads(raw.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["id"] < count]
    return RawTokenizer.from_str(json.dumps(described))


def _check_numbers(file: GgufFile, raw: RawTokenizer) -> None:
    """Raises MghError unless each token has the number of its place, and a row in the embedding table."""
    vocabulary = raw.get_vocab()
    moved = [i for i, token in enumerate(file.tokens) if vocabulary.get(token, i) != i]
    if moved or sorted(vocabulary.values()) != list(range(len(file.tokens))):
        first = f", the first being {file.tokens[moved[0]]!r}" if moved else ""
        raise MghError(
            f"{file.path}: not all of its {len(file.tokens)} tokens get the number of its place{first}; "
            "its tokenizer cannot be read right"
        )
    if len(file.tokens) > file.rows:
        raise MghError(
            f"{file.path} lists {len(file.tokens)} tokens, and its embedding table has {file.rows} rows"
        )
