"""Folders that sentence-transformers saved: our vectors are its own, or the folder is refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from mgh_ds.common.errors import MghError
from mgh_ds.model.encoder import Encoder
from tests.model.conftest import TEXTS

OPTIONS = {} if int(sentence_transformers.__version__.split(".")[0]) < 6 else {"trust_remote_code": True}
LENGTH = 24
MANY = [*TEXTS, "x y " * 60]  # the last is longer than LENGTH


def save(
    folder: Path, backbone: Path, mode: str, *, normalize: bool = True, **options
) -> SentenceTransformer:
    """A folder as sentence-transformers writes it, and the model in it."""
    transformer = Transformer(str(backbone), max_seq_length=LENGTH)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
    modules = [transformer, pooling, Normalize()] if normalize else [transformer, pooling]
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save(str(folder), create_model_card=False)
    return model


@pytest.fixture(scope="module")
def saved(folders, tmp_path_factory) -> Path:
    """One such folder, not to be changed."""
    folder = tmp_path_factory.mktemp("theirs") / "bert"
    save(folder, folders["bert"], "cls")
    return folder


@pytest.fixture
def changed(saved, tmp_path):
    """A copy of `saved`, in which a file has other values for some keys, or other content."""

    def changed(name: str, content: dict | list) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(saved, folder)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, dict):
            content = (json.loads(path.read_text()) if path.exists() else {}) | content
        path.write_text(json.dumps(content))
        return folder

    return changed


def cosine(ours, theirs) -> float:
    return ((ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)).min()


@pytest.mark.parametrize(
    ("family", "mode", "ours"),
    [
        ("bert", "cls", "cls"),
        ("roberta", "mean", "mean"),
        ("llama", "mean_sqrt_len_tokens", "mean"),
        ("mistral", "weightedmean", "weighted_mean"),
        ("qwen3", "lasttoken", "last"),
    ],
)
def test_our_vectors_are_theirs(family, mode, ours, folders, tmp_path):
    """Pooling, length, attention, the end of a text and the default prompt, which they pool."""
    prompts = {"prompts": {"query": "query: ", "passage": "a thing: "}, "default_prompt_name": "passage"}
    theirs = save(tmp_path / "theirs", folders[family], mode, normalize=mode == "mean", **prompts)
    encoder = Encoder.from_pretrained(tmp_path / "theirs", device="cpu")
    assert (encoder.pooling, encoder.max_length) == (ours, LENGTH)
    assert encoder.causal == (family in ("llama", "mistral", "qwen3"))
    vectors = theirs.encode(MANY)
    assert cosine(encoder.encode(MANY), vectors) >= 0.99999
    assert cosine(theirs.encode(MANY, prompt=""), vectors) < 0.999  # so the prompt counts

    encoder.save(tmp_path / "ours")
    again = Encoder.from_pretrained(tmp_path / "ours", device="cpu")
    assert np.array_equal(again.encode(MANY), encoder.encode(MANY))
    exported = SentenceTransformer(str(tmp_path / "ours"), device="cpu", **OPTIONS)
    assert cosine(exported.encode(MANY), vectors) >= 0.99999


def test_a_decoder_whose_configuration_says_so_is_bidirectional(folders, tmp_path):
    theirs = save(tmp_path / "theirs", folders["mistral"], "mean")
    causal = theirs.encode(MANY)
    config = tmp_path / "theirs" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"is_causal": False}))
    vectors = SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(MANY)
    assert cosine(causal, vectors) < 0.999
    encoder = Encoder.from_pretrained(tmp_path / "theirs", device="cpu")
    assert not encoder.causal
    assert cosine(encoder.encode(MANY), vectors) >= 0.99999


def test_the_older_files_say_the_same(changed):
    older = {
        "word_embedding_dimension": 64,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    folder = changed("1_Pooling/config.json", [])
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(older))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": true}')
    listed = json.loads((folder / "modules.json").read_text())
    names = [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    listed = [entry | {"type": name} for entry, name in zip(listed, names, strict=True)]
    (folder / "modules.json").write_text(json.dumps(listed))
    theirs = SentenceTransformer(str(folder), device="cpu")
    encoder = Encoder.from_pretrained(folder, device="cpu")
    assert (encoder.pooling, encoder.max_length) == ("cls", 20)
    assert cosine(encoder.encode(MANY), theirs.encode(MANY)) >= 0.99999


def test_options_outweigh_the_folder(saved):
    encoder = Encoder.from_pretrained(saved, pooling="ata", layers=[0], max_length=12, device="cpu")
    assert (encoder.pooling, encoder.max_length) == ("ata", 12)
    with pytest.raises(MghError, match=r"layers is for ATA pooling, but .* was saved with cls"):
        Encoder.from_pretrained(saved, layers=[0])
    with pytest.raises(MghError, match="column_transform is for ATA pooling, but asked for is mean"):
        Encoder.from_pretrained(saved, pooling="mean", column_transform="log1p")


DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
CUSTOM = TRANSFORMER | {"type": "custom_st.Transformer"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", [TRANSFORMER, POOLING, DENSE], r"2_Dense \(Dense\), which mgh-ds does not apply"),
        ("modules.json", [CUSTOM, POOLING], r"custom_st\.Transformer"),
        ("modules.json", [TRANSFORMER], "names no Pooling"),
        ("modules.json", [TRANSFORMER | {"path": "0_Transformer"}, POOLING], "is in 0_Transformer"),
        ("modules.json", [{"type": 3}], "modules.json lists no modules"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling by max"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pooling by cls and mean"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt is false"),
        ("1_Pooling/config.json", [], "holds no table of keys"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"a": 1}}}, "processing_kwargs"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "chat template"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
        ("sentence_bert_config.json", {"model_args": {"rope_theta": 1}}, "model_args names rope_theta"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "long"},
            r"sentence_bert_config.json: max_seq_length is 'long'",
        ),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side is 'left'"),
        ("tokenizer.json", {"truncation": {"direction": "Left"}}, "truncation_side is 'Left'"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "manhattan"}, "'manhattan'"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "'SparseEncoder'"),
        ("config_sentence_transformers.json", {"truncate_dim": 32}, "truncate_dim cuts"),
        ("config_sentence_transformers.json", {"default_prompt_name": "none"}, "holds no such prompt"),
    ],
)
def test_what_would_give_other_vectors_is_refused_by_name(changed, name, content, message):
    with pytest.raises(MghError, match=message):
        Encoder.from_pretrained(changed(name, content))


def test_lowering_capital_letters_is_for_the_tokenizer(folders, tmp_path):
    save(tmp_path / "theirs", folders["roberta"], "mean")
    path = tmp_path / "theirs" / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": True}))
    with pytest.raises(MghError, match="do_lower_case is true, but the tokenizer keeps capital letters"):
        Encoder.from_pretrained(tmp_path / "theirs")


def test_the_dot_product_needs_unit_length(folders, tmp_path):
    for normalize in (True, False):
        folder = tmp_path / str(normalize)
        save(folder, folders["bert"], "mean", normalize=normalize, similarity_fn_name="dot")
        if normalize:
            Encoder.from_pretrained(folder)
        else:
            with pytest.raises(MghError, match="similarity_fn_name is 'dot'"):
                Encoder.from_pretrained(folder)


def test_a_text_without_tokens_is_no_error_of_its_batch(folders, tmp_path):
    """Of a decoder whose tokenizer adds nothing."""
    save(tmp_path / "theirs", folders["qwen3"], "lasttoken")
    encoder = Encoder.from_pretrained(tmp_path / "theirs", device="cpu")
    vectors = encoder.encode(["a harbour", ""])
    assert np.array_equal(vectors[1], np.zeros(encoder.dim))
    np.testing.assert_allclose(vectors[0], encoder.encode(["a harbour"])[0], atol=1e-6)
