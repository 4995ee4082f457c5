"""Very small models with random weights, and tokenizers to go with them, made without a hub: for tests and dry runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from mgh_ds import files
from mgh_ds.errors import MghError
from mgh_ds.model.weights import cache_folder

# Raise it when the models below change, so that a cached one is not taken for a new one.
VERSION = 1

SENTENCES = [
    "The harbour master keeps a list of every boat that enters before sunrise.",
    "Which enzymes break down starch in the small intestine of a horse?",
    "A rent increase must be announced in writing at least two months in advance.",
    "She tuned the violin again, because the hall was colder than the rehearsal room.",
    "How do I replace the thermostat of a dishwasher that no longer heats?",
    "The committee rejected the proposal, but asked for a second draft in autumn.",
    "Light from the galaxy left it long before the first fish crawled onto land.",
    "Instruct: Given a question, retrieve the passage that answers it.\nQuery: Why is the sky blue at noon?",
]

SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
DECODER = {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "bert": lambda **ids: BertConfig(**SIZES, max_position_embeddings=512, **ids),
    "llama": lambda **ids: LlamaConfig(**DECODER, **ids),
    "mistral": lambda **ids: MistralConfig(**DECODER, sliding_window=None, **ids),
    "qwen2": lambda **ids: Qwen2Config(**{k: v for k, v in DECODER.items() if k != "head_dim"}, **ids),
    "qwen3": lambda **ids: Qwen3Config(**DECODER, **ids),
}


def make_tiny_model(family: str, folder: Path, seed: int = 0) -> None:
    """Writes a model of `family` (bert, llama, mistral, qwen2, qwen3) and its tokenizer to the new folder `folder`.

    The weights depend on `family` and `seed` alone. Raises MghError for an unknown family or an existing folder.
    """
    if family not in CONFIGS:
        raise MghError(f"no tiny model {family!r}: choose one of {', '.join(CONFIGS)}")
    tokenizer = _wordpiece() if family == "bert" else _byte_level_bpe(bos=family in ("llama", "mistral"))
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(CONFIGS[family](**ids))
        # The usual standard deviation of 0.02 leaves so small a model with flat attention; this one has something to show.
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    with files.new_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def cached_tiny_model(family: str) -> Path:
    """The folder of `make_tiny_model(family, seed=0)` in the user's cache, made at the first call."""
    folder = cache_folder() / "tiny-random" / f"{family}-v{VERSION}"
    if not folder.exists():
        try:
            make_tiny_model(family, folder)
        except (OSError, MghError):
            if not folder.exists():  # else another process was faster: its model is the same
                raise
    return folder


def _byte_level_bpe(bos: bool) -> PreTrainedTokenizerFast:
    """As the family's own: Llama and Mistral open a text with BOS, Qwen with nothing; none of them closes it."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special: dict[str, Any] = {"eos_token": "</s>", "pad_token": "<pad>"}
    if bos:
        special["bos_token"] = "<s>"
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=sorted(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SENTENCES, trainer)
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=1024, **special)


def _wordpiece() -> PreTrainedTokenizerFast:
    raw = RawTokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    trainer = trainers.WordPieceTrainer(vocab_size=512, special_tokens=list(special.values()), show_progress=False)
    raw.train_from_iterator(SENTENCES, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, raw.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=512, **special)
