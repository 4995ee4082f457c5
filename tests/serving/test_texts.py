"""From a server's token ids to the batch of `Encoder`: the same tokens, the same marks, the same vectors."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.embedder import EmbeddingModel
from mgh_ds.model.pooling import Pooling
from mgh_ds.serving.model import MghEmbedder, VectorPooler
from mgh_ds.serving.texts import TextReader, longest_prompt, split
from tests.model.conftest import FAMILIES, TEXTS

INSTRUCTION = "Retrieve a page: what answers it?"
PROMPTS = {"query": "query: ", "document": "", "sts": "Instruct: Compare.\nQuery: ", "other": "search\n"}


def ids_of(tokenizer, text):
    """What a server makes of a text, cut where vLLM would."""
    return tokenizer.backend(text, truncation=True, max_length=longest_prompt(tokenizer))["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("include_bos", [True, False])
def test_instructions_are_found_again(family, include_bos, load):
    _, tokenizer = load(family, padding_free=True, include_bos=include_bos, max_length=40)
    reader = TextReader(tokenizer, PROMPTS.values())
    # A blank, digits and a line break at the border, and a text that is cut.
    texts = [*TEXTS, "", " two blanks", "12", "\nnext", "word " * 60]
    for prefix in (tokenizer.prefix(INSTRUCTION), tokenizer.prefix("Größe der 3 Häfen."), *PROMPTS.values()):
        wanted = [tokenizer._rows([prefix], [text])[0] for text in texts]
        assert [reader.row(ids_of(tokenizer, prefix + text)) for text in texts] == wanted, prefix


@pytest.mark.parametrize("options", [{"include_instruction": True}, {"use_instructions": False}])
def test_where_instructions_are_text_all_is_pooled(options, load):
    _, tokenizer = load("mistral", padding_free=True, **options)
    ids, pooled = TextReader(tokenizer, PROMPTS.values()).row(
        ids_of(tokenizer, tokenizer.instruction_template.format(instruction=INSTRUCTION, text="a boat"))
    )
    assert all(pooled)
    assert ids[-1] == tokenizer.backend.eos_token_id


def test_what_only_looks_like_an_instruction_is_pooled(load):
    _, tokenizer = load("llama", padding_free=True)
    reader = TextReader(tokenizer, PROMPTS.values())
    for text in ("query:boats", "Instruct: nobody asks", "Query: a boat", "In", ""):
        assert all(reader.row(ids_of(tokenizer, text))[1]), text


def test_a_prompt_of_no_token_hides_no_other(load):
    _, tokenizer = load("minilm", padding_free=True, max_length=40)
    assert tokenizer.backend(" \n", add_special_tokens=False)["input_ids"] == []
    prefix = tokenizer.prefix(INSTRUCTION)
    found = TextReader(tokenizer, [" \n"]).row(ids_of(tokenizer, prefix + "a boat"))
    assert found == tokenizer._rows([prefix], ["a boat"])[0]
    assert not all(found[1])


def test_a_template_that_nothing_tells_apart_is_not_looked_for(load):
    _, tokenizer = load("llama", padding_free=True, instruction_template="{instruction} {text}")
    reader = TextReader(tokenizer, ["find: "])
    assert all(reader.row(ids_of(tokenizer, "a boat and another"))[1])
    assert not all(reader.row(ids_of(tokenizer, "find: a boat"))[1])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_flat_batch_is_cut_where_positions_begin_anew(lengths):
    ids = list(range(sum(lengths)))
    texts = split(ids, [place for length in lengths for place in range(length)])
    assert [len(text) for text in texts] == lengths
    assert [token for text in texts for token in text] == ids


def test_what_a_server_warms_up_with_is_cut_too():
    assert split([0, 0, 0], [0, 0, 0]) == [[0], [0], [0]]
    assert split([5, 6], [3, 4]) == [[5, 6]]


@pytest.mark.parametrize("family", ["minilm", "gemma2", "smollm3"])
@pytest.mark.parametrize("method", ["ata", "last", "weighted_mean"])
def test_the_vectors_are_those_of_the_same_texts(family, method, load):
    """Up to rounding: lengths that share a batch differ."""
    model, tokenizer = load(family, padding_free=True, max_length=64)
    config = PoolingConfig(method=method)
    embedder = EmbeddingModel(model.backbone, Pooling(config)).eval()
    served = served_model(embedder, TextReader(tokenizer))
    prefix = tokenizer.prefix(INSTRUCTION)
    texts = [ids_of(tokenizer, prefix + text if i % 2 else text) for i, text in enumerate(TEXTS)]
    with torch.inference_mode():
        flat = torch.tensor([token for ids in texts for token in ids], dtype=torch.int32)
        places = torch.tensor([place for ids in texts for place in range(len(ids))])
        rows = served(input_ids=flat, positions=places)
        told = [INSTRUCTION if i % 2 else None for i in range(len(TEXTS))]
        wanted = embedder(tokenizer.tokenize(TEXTS, told))
    assert rows.shape == (len(flat), embedder.dim)
    vectors = VectorPooler()(rows, metadata([len(ids) for ids in texts], [None] * len(texts)))
    assert torch.allclose(torch.stack(vectors), wanted, atol=1e-6)
    cut = VectorPooler()(rows, metadata([len(ids) for ids in texts], [8] * len(texts)))
    short = torch.nn.functional.normalize(wanted[:, :8], dim=-1)
    assert torch.allclose(torch.stack(cut), short, atol=1e-6)


def served_model(embedder: EmbeddingModel, reader: TextReader) -> MghEmbedder:
    """What vLLM loads, around a model that is there already."""
    served = MghEmbedder.__new__(MghEmbedder)
    torch.nn.Module.__init__(served)
    served.embedder, served.reader, served.pooler = embedder, reader, VectorPooler()
    return served


def metadata(lengths, dimensions):
    """What vLLM tells a pooler of the requests in a batch."""
    cursor = SimpleNamespace(last_token_indices_gpu=torch.tensor(lengths).cumsum(0) - 1)
    params = [SimpleNamespace(dimensions=size) for size in dimensions]
    return SimpleNamespace(get_pooling_cursor=lambda: cursor, pooling_params=params)
