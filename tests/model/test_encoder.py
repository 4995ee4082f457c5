"""`Encoder`: the vectors it gives, the input it refuses, and what it remembers of itself."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from mgh_ds import Encoder
from mgh_ds.common.errors import MghError
from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.settings import SETTINGS_FILE, read_settings
from tests.model.conftest import TEXTS

# `and` a text beyond MiniLM's 256 tokens.
MANY = [*TEXTS, "", "Ein Satz mit Umlauten: äöü ß.", "x " * 400]


@pytest.fixture(scope="module")
def minilm(folders):
    """As ours: its own folder says mean, and pools the prompt."""
    return Encoder.from_pretrained(folders["minilm"], pooling="ata", include_instruction=False, device="cpu")


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_mean_pooling_of_minilm_is_sentence_transformers_own(folders):
    theirs = SentenceTransformer(str(folders["minilm"]), device="cpu").encode(MANY)
    for pooling in ("mean", None):  # None: what the folder says
        ours = Encoder.from_pretrained(folders["minilm"], pooling=pooling, device="cpu").encode(MANY)
        assert cosines(ours, theirs).min() >= 0.99999


def test_the_name_of_minilm_needs_no_network(minilm):
    for name in ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"):
        encoder = Encoder.from_pretrained(name, pooling="ata", device="cpu")
        assert np.array_equal(encoder.encode(TEXTS), minilm.encode(TEXTS))
        assert encoder.name == name


def test_vectors_have_unit_length_and_the_order_of_their_texts(minilm):
    vectors = minilm.encode(MANY, batch_size=2)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(MANY), minilm.dim) == (len(MANY), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    one_by_one = np.concatenate([minilm.encode([text]) for text in MANY])
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)


def test_an_instruction_changes_the_vector_and_carries_no_weight(minilm):
    plain, told = (
        minilm.encode(TEXTS),
        minilm.encode(TEXTS, instruction="Find a sentence on the same subject."),
    )
    assert cosines(plain, told).max() < 0.999
    batch = minilm.tokenizer.tokenize(TEXTS, ["Find it."] * len(TEXTS))
    weights = minilm.model.token_weights(batch)
    assert (weights[~batch.pooling_mask] == 0).all()
    torch.testing.assert_close(batch.total(weights), torch.ones(len(TEXTS)))


def test_padding_changes_the_vectors_by_rounding_only(folders, minilm):
    assert minilm.tokenizer.padding_free
    padding = Encoder.from_pretrained(folders["minilm"], pooling="ata", device="cpu", padding_free=False)
    np.testing.assert_allclose(padding.encode(MANY), minilm.encode(MANY), atol=1e-5)


def test_settings_saved_before_there_were_layers_mean_the_last(folders, tmp_path):
    encoder = Encoder.from_pretrained(folders["qwen3"])
    encoder.save(tmp_path / "saved")
    path = tmp_path / "saved" / SETTINGS_FILE
    settings = json.loads(path.read_text())
    assert settings["pooling"].pop("layers") == [-1]
    path.write_text(json.dumps(settings))
    assert np.array_equal(Encoder.from_pretrained(tmp_path / "saved").encode(TEXTS), encoder.encode(TEXTS))


def test_other_layers_give_other_vectors(folders, minilm):
    both = Encoder.from_pretrained(folders["minilm"], pooling="ata", layers=[0, -1], device="cpu")
    assert 0.5 < cosines(both.encode(TEXTS), minilm.encode(TEXTS)).max() < 0.9999


@pytest.mark.parametrize("padding_free", [True, False])
def test_a_text_without_a_token_is_all_zeros(folders, tmp_path, padding_free):
    """Beside others and among its like: no vector at all, and so a cosine of 0 to everything."""
    Encoder.from_pretrained(folders["qwen3"]).save(tmp_path / "saved")
    settings = tmp_path / "saved" / SETTINGS_FILE
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"append_eos": False}))
    open_ended = Encoder.from_pretrained(tmp_path / "saved", padding_free=padding_free)
    assert not open_ended.tokenizer.appends
    alone, beside = open_ended.encode(["", ""]), open_ended.encode(["", *TEXTS])
    assert not alone.any()
    assert not beside[0].any()
    np.testing.assert_allclose(beside[1:], open_ended.encode(TEXTS), atol=1e-6)


def test_nothing_in_nothing_out(minilm):
    assert minilm.encode([]).shape == (0, 384)


@pytest.mark.parametrize(
    ("texts", "message"), [("one text", r"encode\(\[text\]\)"), (["a", None], "text 1 is of type None")]
)
def test_what_is_no_list_of_strings_is_refused(minilm, texts, message):
    with pytest.raises(MghError, match=message):
        minilm.encode(texts)


def test_encoding_leaves_the_model_in_training_mode_if_it_was(minilm):
    minilm.model.train()
    minilm.encode(["a"])
    assert minilm.model.training
    minilm.model.eval()


@pytest.mark.parametrize(
    "pooling",
    [
        {"method": "weighted_mean"},
        {"column_transform": "log1p", "sink": "clip", "clip_multiple": 4.0, "layers": [0, -1]},
    ],
)
def test_a_saved_encoder_remembers_its_settings(folders, tmp_path, pooling):
    options = {
        "pooling": pooling.get("method"),
        "column_transform": pooling.get("column_transform"),
        "sink": pooling.get("sink"),
        "clip_multiple": pooling.get("clip_multiple"),
        "layers": pooling.get("layers"),
        "include_bos": False,
        "include_instruction": True,
        "bidirectional": False,
        "max_length": 40,
        "instruction_template": "{instruction}\n{text}",
    }
    encoder = Encoder.from_pretrained(folders["llama"], **options, device="cpu")
    encoder.save(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.model.pooling.config == PoolingConfig(**pooling, include_bos=False, include_instruction=True)
    assert (again.max_length, again.pooling) == (40, pooling.get("method", "ata"))
    assert np.array_equal(
        again.encode(TEXTS, instruction="Find it."), encoder.encode(TEXTS, instruction="Find it.")
    )
    assert read_settings(tmp_path / "saved").bidirectional is False


def test_a_run_folder_stands_for_its_export(folders, tmp_path):
    Encoder.from_pretrained(folders["qwen3"], max_length=33).save(tmp_path / "run" / "export")
    assert Encoder.from_pretrained(tmp_path / "run").max_length == 33


def test_options_outweigh_the_saved_settings(folders, tmp_path):
    Encoder.from_pretrained(folders["llama"], pooling="mean", max_length=40).save(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved", pooling="last", include_bos=False)
    assert again.model.pooling.config == PoolingConfig(method="last", include_bos=False)
    assert again.max_length == 40


def test_defaults_for_a_model_of_others(folders):
    minilm = Encoder.from_pretrained(folders["minilm"])
    assert minilm.max_length == 256  # its sentence_bert_config.json
    assert minilm.model.pooling.config == PoolingConfig(method="mean", include_instruction=True)
    decoder = Encoder.from_pretrained(folders["mistral"])
    assert decoder.max_length == 512
    assert decoder.model.pooling.config == PoolingConfig()


def test_half_precision_weights_give_nearly_the_same_vectors(folders):
    exact, half = (
        Encoder.from_pretrained(folders["minilm"], dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    assert half.encode(TEXTS).dtype == np.float32
    assert cosines(exact.encode(TEXTS), half.encode(TEXTS)).min() > 0.99


def test_a_model_takes_no_more_tokens_than_it_has_positions(folders):
    with pytest.raises(MghError, match="at most 512 tokens"):
        Encoder.from_pretrained(folders["minilm"], max_length=513)
    with pytest.raises(MghError, match="at most 510 tokens"):
        Encoder.from_pretrained(folders["roberta"], max_length=511)
    longest = Encoder.from_pretrained(folders["roberta"], max_length=510)
    assert np.isfinite(longest.encode(["a b " * 600])).all()


def test_a_damaged_settings_file_is_named(folders, tmp_path):
    Encoder.from_pretrained(folders["qwen3"]).save(tmp_path / "saved")
    for content in ("{", '{"pooling": {}, "colour": "red"}', '{"max_length": 5}'):
        (tmp_path / "saved" / SETTINGS_FILE).write_text(content)
        with pytest.raises(MghError, match=SETTINGS_FILE):
            Encoder.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": None}, "a sequence of texts, found NoneType"),
        ({"texts": {"a": "b"}}, "a sequence of texts, found dict"),
        ({"texts": np.array("one text")}, r"an array of shape \(\)"),
        ({"texts": np.array([["a"], ["b"]])}, r"an array of shape \(2, 1\)"),
        ({"texts": ["half a pair: \ud800"]}, "text 0 holds half of a surrogate pair"),
        ({"texts": ["a"], "batch_size": 0}, "batch_size must be"),
        ({"texts": ["a"], "batch_size": -1}, "batch_size must be"),
        ({"texts": ["a"], "batch_tokens": 0}, "batch_tokens must be"),
        ({"texts": ["a"], "instruction": 3}, "instruction is of type int"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(arguments, message):
    encoder = Encoder.from_pretrained("tiny-random/mistral")
    with pytest.raises(MghError, match=message):
        encoder.encode(**arguments)


def test_nan_is_refused_with_the_weight_it_comes_from():
    encoder = Encoder.from_pretrained("tiny-random/mistral", device="cpu")
    broken = "backbone.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        encoder.model.get_parameter(broken)[0, 0] = float("nan")
    with pytest.raises(MghError, match=rf"NaN or infinity for 2 of 2 texts.*'bb': its weight {broken}"):
        encoder.encode(["a", "bb"])


def test_overflow_is_refused_with_the_precision():
    encoder = Encoder.from_pretrained("tiny-random/mistral", "mean", dtype="float16", device="cpu")
    with torch.no_grad():
        encoder.model.get_parameter("backbone.layers.1.mlp.up_proj.weight").mul_(1e5 / 2)
    with pytest.raises(MghError, match=r"its precision does not suffice \(.*float16\)"):
        encoder.encode(["a harbour"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "method must be one of ata, mean"),
        ({"column_transform": "square"}, "column_transform must be one of identity"),
        ({"layers": [3]}, "layers names 3, but the model has 3: -3 to 2"),
        ({"layers": [0, -4]}, "layers names -4"),
        ({"layers": [2, -1]}, "layers names one layer twice"),
        ({"layers": []}, "layers must be a list of at least one"),
        ({"layers": -1}, "layers must be a list"),
        ({"layers": [True]}, "layers must be a list"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32"),
        ({"max_length": 0}, "max_length must be a whole number"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(MghError, match=message):
        Encoder.from_pretrained("tiny-random/mistral", **options)
