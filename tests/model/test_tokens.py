"""What the backbone reads and what may be pooled: instructions, truncation, BOS and EOS, on every kind of
tokenizer.
"""

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mgh_ds.common.errors import MghError
from mgh_ds.model.tokens import Tokenizer

INSTRUCTION = "Given a question, retrieve the passage that answers it."
TEXT = "Why is the sky blue?"


@pytest.fixture(scope="module")
def make(folders):
    return lambda family, **options: Tokenizer.from_pretrained(
        folders[family], **{"max_length": 64, "padding_free": False, **options}
    )


def tokens(tokenizer, batch, which, row=0):
    return tokenizer.backend.convert_ids_to_tokens(batch.input_ids[row][which[row]].tolist())


@pytest.mark.parametrize(
    ("family", "first", "last"),
    [
        ("minilm", "[CLS]", "[SEP]"),
        ("roberta", "<s>", "</s>"),
        ("mistral", "<s>", "</s>"),
        ("llama", "<s>", "</s>"),
        ("qwen2", "W", "</s>"),
        ("qwen3", "W", "</s>"),
    ],
)
def test_texts_open_as_the_family_has_it_and_are_always_closed(make, family, first, last):
    tokenizer = make(family)
    read = tokens(tokenizer, tokenizer.tokenize([TEXT]), tokenizer.tokenize([TEXT]).attention_mask)
    assert read[0].startswith(first)
    assert read[-1] == last
    assert read.count(last) == 1
    long = tokenizer.tokenize([TEXT * 50])
    assert long.input_ids.shape == (1, 64)
    assert tokens(tokenizer, long, long.attention_mask)[-1] == last


@pytest.mark.parametrize("family", ["minilm", "roberta", "mistral", "qwen3"])
def test_the_instruction_is_read_but_not_pooled(make, family):
    tokenizer = make(family)
    instructed, plain = tokenizer.tokenize([TEXT], [INSTRUCTION]), tokenizer.tokenize([TEXT], [None])
    assert instructed.attention_mask.sum() > plain.attention_mask.sum() + 5
    # What is left is the text with its special tokens; at the border a byte-level token may carry the space
    # before it.
    left = "".join(tokens(tokenizer, instructed, instructed.pooling_mask)).replace("Ġ", "").replace("Ċ", "")
    assert left == "".join(tokens(tokenizer, plain, plain.attention_mask)).replace("Ġ", "")
    assert make(family, include_instruction=True).tokenize([TEXT], [INSTRUCTION]).pooling_mask.all()


@pytest.mark.parametrize("family", ["minilm", "mistral", "qwen3"])
def test_bos_is_left_out_if_asked_and_only_where_there_is_one(make, family):
    batch = make(family, include_bos=False).tokenize([TEXT])
    assert batch.pooling_mask[0].tolist() == [family == "qwen3"] + [True] * (batch.input_ids.shape[1] - 1)


@settings(deadline=None, max_examples=60)
@given(text=st.text(min_size=1, max_size=30), instruction=st.text(min_size=1, max_size=20))
def test_any_text_keeps_its_last_character_and_no_token_of_the_instruction(make, text, instruction):
    """Byte-level tokens decode to exactly what they were made of, so the pooled ones must decode to the
    text's end.
    """
    tokenizer = make("qwen3", max_length=512)
    batch = tokenizer.tokenize([text], [instruction])
    whole = f"Instruct: {instruction}\nQuery: {text}"
    decode = lambda ids: tokenizer.backend.backend_tokenizer.decode(ids.tolist(), skip_special_tokens=False)  # noqa: E731
    ids = batch.input_ids[0][:-1]  # without EOS
    if any(token in whole for token in ("</s>", "<pad>")):
        return  # spelled out, they are special tokens to any Hugging Face tokenizer
    assert decode(ids) == whole
    pooled = decode(ids[batch.pooling_mask[0][:-1]])
    assert whole.endswith(pooled)
    assert len(text) <= len(pooled) <= len(text) + 2  # a token across the border begins before it
    assert batch.pooling_mask[0].diff().sum() == 1  # one border


def test_a_text_is_cut_and_its_instruction_is_not(make):
    tokenizer = make("mistral", max_length=48)
    batch = tokenizer.tokenize([TEXT * 20, TEXT], [INSTRUCTION, INSTRUCTION])
    assert batch.input_ids.shape[1] == 48
    assert torch.equal(batch.pooling_mask[0].long().argmin(), batch.pooling_mask[1].long().argmin())
    read = tokenizer.backend.decode(batch.input_ids[0])
    assert INSTRUCTION in read
    assert "Why is" in read


def test_an_instruction_without_room_for_its_text_is_refused(make):
    tokenizer = make("qwen2", max_length=24)
    with pytest.raises(MghError, match=r"max_length 24 leaves no room .* 'Instruct: Given"):
        tokenizer.tokenize([TEXT], [INSTRUCTION * 3])
    assert tokenizer.tokenize([TEXT], [None]).attention_mask.any()


def test_empty_texts_still_have_tokens(make):
    for family in ("minilm", "mistral", "qwen3"):
        batch = make(family).tokenize(["", ""], [None, INSTRUCTION])
        assert batch.pooling_mask.any(1).all()


def test_padding_goes_to_either_side(make):
    right, left = (make("llama", padding_side=side).tokenize([TEXT, "a"]) for side in ("right", "left"))
    n = int(right.attention_mask[1].sum())
    assert right.attention_mask[1].tolist() == [True] * n + [False] * (right.input_ids.shape[1] - n)
    assert left.attention_mask[1].tolist() == right.attention_mask[1].flip(0).tolist()
    assert torch.equal(left.input_ids[1, -n:], right.input_ids[1, :n])
    assert (right.input_ids[1, n:] == make("llama").backend.pad_token_id).all()
    assert not (left.pooling_mask & ~left.attention_mask).any()


def test_a_tokenizer_without_a_padding_token_pads_with_eos(folders):
    backend = AutoTokenizer.from_pretrained(folders["mistral"])
    backend.pad_token = None
    batch = Tokenizer(backend, max_length=16, padding_free=False).tokenize(["a b c d", "a"])
    assert batch.input_ids[1, -1] == backend.eos_token_id
    assert not batch.attention_mask[1, -1]


def test_instructions_can_be_switched_off(make):
    tokenizer = make("qwen3", use_instructions=False)
    assert torch.equal(
        tokenizer.tokenize([TEXT], [INSTRUCTION]).input_ids, tokenizer.tokenize([TEXT]).input_ids
    )


def test_the_template_is_the_recipes(make):
    tokenizer = make("qwen3", instruction_template="{instruction} | {text}")
    batch = tokenizer.tokenize(["a"], ["Find it"])
    assert tokenizer.backend.decode(batch.input_ids[0]) == "Find it | a</s>"


@pytest.mark.parametrize("family", ["minilm", "roberta", "mistral", "qwen3"])
def test_a_packed_batch_is_a_padded_one_without_the_padding(make, family):
    texts, instructions = [TEXT, "", TEXT * 50, "a"], [INSTRUCTION, None, INSTRUCTION, None]
    packed, padded = (
        make(family, padding_free=padding_free).tokenize(texts, instructions).to("cpu")
        for padding_free in (True, False)
    )
    assert (packed.texts, packed.tokens) == (padded.texts, padded.tokens)
    for name in ("input_ids", "position_ids", "pooling_mask"):
        found, expected = getattr(packed, name), getattr(padded, name)
        assert found.shape == (packed.tokens,)
        assert found.dtype == expected.dtype
        for ours, theirs in zip(packed.unpacked(found), padded.unpacked(expected), strict=True):
            assert torch.equal(ours, theirs)
    lengths = padded.lengths.tolist()
    assert packed.cu_seqlens.tolist() == [0, *accumulate(lengths)]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.max_seqlen == max(lengths) == 64
    assert torch.equal(packed.spread(packed.lengths), torch.cat([torch.full((n,), n) for n in lengths]).int())


def test_nothing_in_nothing_out(make):
    assert make("qwen3").tokenize([]).input_ids.shape == (0, 0)
    nothing = make("qwen3", padding_free=True).tokenize([])
    assert (nothing.texts, nothing.tokens, nothing.max_seqlen) == (0, 0, 0)
    assert nothing.cu_seqlens.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 3}, "max_length is 3"),
        ({"instruction_template": "{instruction}: {text}."}, "end with {text}"),
        ({"instruction_template": "Query: {text}"}, "hold {instruction} once"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, options, message):
    with pytest.raises(MghError, match=message):
        make("mistral", **options)


def test_lists_of_different_lengths_are_refused(make):
    with pytest.raises(MghError, match="2 texts but 1 instructions"):
        make("mistral").tokenize(["a", "b"], ["c"])


def test_saving_leaves_no_truncation_behind(make, tmp_path):
    tokenizer = make("mistral", max_length=8)
    tokenizer.tokenize([TEXT])
    tokenizer.save(tmp_path)
    assert '"truncation": null' in (tmp_path / "tokenizer.json").read_text()
    assert tokenizer.tokenize([TEXT]).input_ids.shape == (1, 8)


@pytest.mark.parametrize("family", ["minilm", "roberta", "mistral", "qwen3"])
def test_the_end_of_a_text_is_cut_whatever_the_tokenizer_says(folders, make, family):
    backend = AutoTokenizer.from_pretrained(folders[family], truncation_side="left")
    assert backend.truncation_side == "left"
    ours = Tokenizer(backend, max_length=64, padding_free=False)
    found, expected = (each.tokenize([TEXT * 50], [INSTRUCTION]) for each in (ours, make(family)))
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.pooling_mask, expected.pooling_mask)


def test_a_prompt_precedes_what_has_no_instruction(make):
    tokenizer = make("qwen3", prompt="query: ")
    batch = tokenizer.tokenize([TEXT, TEXT], [None, INSTRUCTION])
    plain, told = (tokenizer.backend.decode(row) for row in batch.input_ids)
    assert plain.startswith(f"query: {TEXT}</s>")
    assert told == f"Instruct: {INSTRUCTION}\nQuery: {TEXT}</s>"
    assert torch.equal(tokenizer.tokenize([TEXT]).input_ids, tokenizer.tokenize([TEXT], [None]).input_ids)
    without = make("qwen3", prompt="query: ", use_instructions=False).tokenize([TEXT], [INSTRUCTION])
    assert tokenizer.backend.decode(without.input_ids[0]) == f"{TEXT}</s>"


def test_a_text_is_closed_only_where_that_is_asked_for(make):
    open_, closed = (make("qwen3", append_eos=append_eos, max_length=8) for append_eos in (False, True))
    found, expected = open_.tokenize([TEXT, TEXT * 9]), closed.tokenize([TEXT, TEXT * 9])
    assert found.lengths.tolist() == [expected.lengths[0] - 1, 8]
    assert found.input_ids[1, 7] != expected.input_ids[1, 7] == closed.backend.eos_token_id
