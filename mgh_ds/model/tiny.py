"""Very small models with random weights, and their tokenizers, made without a hub: for tests and dry runs."""

import re
import string
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    ModernBertConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    SmolLM3Config,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from mgh_ds.common import files
from mgh_ds.common.cache import cache_folder, made_once
from mgh_ds.common.errors import MghError
from mgh_ds.model.hf_logging import quiet

# Raise it when the models below change, so that a cached one is not taken for a new one.
VERSION = 4

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
DECODER = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 1024}
# A full layer between two with windows.
GEMMA = {**DECODER, "head_dim": 16, "query_pre_attn_scalar": 8, "sliding_window": 4}
HALF_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "bert": lambda **ids: BertConfig(**SIZES, **ids),
    "distilbert": lambda **ids: DistilBertConfig(dim=64, n_layers=3, n_heads=4, hidden_dim=128, **ids),
    "electra": lambda **ids: ElectraConfig(**SIZES, embedding_size=32, **ids),
    # One full layer, then two that see four tokens on each side.
    "modernbert": lambda **ids: ModernBertConfig(
        **SIZES,
        local_attention=8,
        cls_token_id=ids["bos_token_id"],
        sep_token_id=ids["eos_token_id"],
        **ids,
    ),
    "roberta": lambda **ids: RobertaConfig(**SIZES, **ids),
    # Scores that are capped where it shows, and scaled by another number than the head's width.
    "gemma2": lambda **ids: Gemma2Config(**GEMMA, attn_logit_softcapping=2.0, **ids),
    "gemma3_text": lambda **ids: Gemma3TextConfig(**GEMMA, sliding_window_pattern=2, **ids),
    "llama": lambda **ids: LlamaConfig(**DECODER, **ids),
    "mistral": lambda **ids: MistralConfig(**DECODER, sliding_window=None, **ids),
    "phi3": lambda **ids: Phi3Config(**DECODER, rope_parameters=HALF_ROPE, **ids),
    "qwen2": lambda **ids: Qwen2Config(**DECODER, **ids),
    "qwen3": lambda **ids: Qwen3Config(**DECODER, head_dim=16, **ids),
    # The first layer and the last know no positions.
    "smollm3": lambda **ids: SmolLM3Config(**DECODER, no_rope_layers=[0, 1, 0], **ids),
}


# The family of `make_tiny_model` that writes instead of embedding.
CHAT = "chat"
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>\n{{ message.content }}\n</{{ message.role }}>\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
CHAT_LENGTH = 8192  # positions
PLAIN = re.compile(r"[!-\[\]-~Ġ]+")  # printable ASCII without the backslash; Ġ is the space
# Of the first dimension, whose value at the end is about 0.3, in a token's logit.
QUOTE, SILENT = 9.0, -100.0

# What a family's own tokenizer puts around a text, if anything.
OPENED, ENCLOSED = "<s> $A", "<s> $A </s>"
TEMPLATES = {
    **dict.fromkeys(("modernbert", "roberta"), ENCLOSED),
    **dict.fromkeys(("gemma2", "gemma3_text", "llama", "mistral", "phi3"), OPENED),
}
WORDPIECE = ("bert", "distilbert", "electra")


def make_tiny_model(family: str, folder: Path, seed: int = 0) -> None:
    """Writes a model of `family` (a key of `CONFIGS` or "chat") and its tokenizer to the new folder `folder`.

    The weights depend on `family` and `seed` alone. Raises MghError for another family or an existing folder.
    """
    if family not in (*CONFIGS, CHAT):
        raise MghError(f"no tiny model {family!r}: choose one of {', '.join((*CONFIGS, CHAT))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, tokenizer = _chat_model() if family == CHAT else _embedding_model(family)
    with files.new_folder(folder) as temporary, quiet():
        _save(model, temporary)
        tokenizer.save_pretrained(temporary)


def cached_tiny_model(family: str) -> Path:
    """The folder of `make_tiny_model(family)` in the user's cache, made at the first call."""
    folder = cache_folder() / "tiny-random" / f"{family}-v{VERSION}"
    return made_once(folder, lambda new: make_tiny_model(family, new))


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Writes what `model.save_pretrained` would, but on any rank: transformers writes on rank 0 alone, and
    here the first rank of a machine to arrive makes the model for all."""
    model.config.architectures, model.config.dtype = [type(model).__name__], model.dtype
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def _embedding_model(family: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _wordpiece() if family in WORDPIECE else _byte_level_bpe(TEMPLATES.get(family, "$A"))
    if family == "qwen2":  # to which transformers would add one, beyond the embedding table, if it had none
        tokenizer.unk_token = tokenizer.eos_token
    model = AutoModel.from_config(CONFIGS[family](**_vocabulary(tokenizer)))
    _spread_weights(model)
    return model, tokenizer


def _chat_model() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A causal model with a chat template whose text is noise, made for answers that a JSON grammar bounds.

    Heads have 32 dimensions, the fewest that vLLM's attention for CPUs knows.
    """
    tokenizer = _byte_level_bpe("$A", max_length=CHAT_LENGTH)
    tokenizer.chat_template = CHAT_TEMPLATE
    sizes = {**DECODER, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes["max_position_embeddings"] = CHAT_LENGTH
    config = LlamaConfig(**sizes, **_vocabulary(tokenizer), tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    _spread_weights(model)
    # A random model ends a JSON string once in as many tokens as its vocabulary has, and writes bytes that
    # are no text: its answers would be endless and no JSON. So the first dimension is the same for all
    # tokens, no layer writes to it, and the rows of the head listen to it. The quotation mark's does so that
    # strings end after some 20 to 60 tokens; those of what is not plain text, so that it is never written.
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        head = model.lm_head.weight
        for token, index in tokenizer.get_vocab().items():
            head[index, 0] = 0.0 if PLAIN.fullmatch(token) else SILENT
        quote = tokenizer.convert_tokens_to_ids('"')
        head[quote] = 0.0
        head[quote, 0] = QUOTE
    return model, tokenizer


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def _spread_weights(model: PreTrainedModel) -> None:
    # With the usual deviation of 0.02 so small a model attends evenly; this one has something to show.
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)


def _byte_level_bpe(template: str, max_length: int = 1024) -> PreTrainedTokenizerFast:
    special = {"eos_token": "</s>", "pad_token": "<pad>"}
    if "<s>" in template:
        special["bos_token"] = "<s>"
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SENTENCES, trainer)
    ends = [(token, raw.token_to_id(token)) for token in special.values()]
    raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=max_length, **special)


def _wordpiece() -> PreTrainedTokenizerFast:
    """As BERT has it: `[CLS] text [SEP]`. Words of the sentences, and characters for all others.

    The vocabulary is put together here because the library's WordPiece trainer gives another one at each run.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    text = " ".join(SENTENCES).lower()
    characters = sorted(
        {*string.ascii_lowercase, *string.digits, *string.punctuation, *text} - {*string.whitespace}
    )
    words = sorted({word for word in re.findall(r"\w+", text) if len(word) > 1})
    pieces = [*special.values(), *characters, *(f"##{character}" for character in characters), *words]
    raw = RawTokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    ends = [(token, raw.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=512, **special)
