"""Exports in sentence-transformers' own modules: loaded without trust in other code, with our vectors; and
what these modules cannot say. Runs under versions 5 and 6 (`tests/system/test_sentence_transformers_6.py`).
"""

import json
import shutil
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model import standard_modules
from mgh_ds.model.config import PoolingConfig
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.export import export
from mgh_ds.model.sentence_transformers_folder import MODULE
from mgh_ds.model.standard_modules import obstacle
from tests.model.conftest import FAMILIES, TEXTS

# What a module of ours needs from version 6 on; those of sentence-transformers are loaded without.
TRUST = {} if int(sentence_transformers.__version__.split(".")[0]) < 6 else {"trust_remote_code": True}
METHODS = ["mean", "last", "cls", "weighted_mean"]
MANY = [*TEXTS, " x y" * 60]  # the last is cut
TOLD = "Find it."
PROMPT = "Instruct: Find it.\nQuery: "
# Unit vectors whose attention was computed in another order.
ROUNDING = 1e-5


def same(vectors: np.ndarray, others: np.ndarray) -> None:
    assert (vectors * others).sum(1).min() >= 0.99999
    np.testing.assert_allclose(vectors, others, rtol=0, atol=ROUNDING)


@pytest.fixture
def encoder(folders):
    """A family's model whose instructions are pooled where there are any, with texts of up to 32 tokens."""

    def encoder(family: str, method: str, **options) -> Encoder:
        options = {"include_instruction": True, "max_length": 32, "device": "cpu"} | options
        return Encoder.from_pretrained(folders[family], pooling=method, **options)

    return encoder


@pytest.mark.parametrize(("family", "method"), zip(FAMILIES, cycle(METHODS), strict=False))
def test_every_family_needs_no_code_of_ours(family, method, encoder, tmp_path):
    """Alone and in a batch, since attention without padding runs without a mask."""
    ours = encoder(family, method, bidirectional=method != "last")
    ours.save(tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert [type(module).__name__ for module in theirs] == ["Transformer", "Pooling", "Normalize"]
    assert (theirs.max_seq_length, theirs.similarity_fn_name) == (32, "cosine")
    vectors = ours.encode(MANY)
    same(theirs.encode(MANY), vectors)
    same(theirs.encode(MANY[1])[None], vectors[1:2])
    same(theirs.encode(TEXTS, prompt=PROMPT), ours.encode(TEXTS, instruction=TOLD))
    again = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    assert np.array_equal(again.encode(MANY), vectors)


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_is_a_module_too(method, encoder, tmp_path):
    """Vectors stay of unit length, and may be cut further there."""
    ours = encoder("llama", method, dimensions=16)
    ours.save(tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert theirs.get_embedding_dimension() == 16
    same(theirs.encode(MANY), ours.encode(MANY))
    shorter = SentenceTransformer(str(tmp_path / "out"), device="cpu", truncate_dim=8)
    cut = Encoder.from_pretrained(tmp_path / "out", dimensions=8, device="cpu")
    same(shorter.encode(MANY, normalize_embeddings=True), cut.encode(MANY))


def test_the_first_token_and_the_last_are_what_they_are_whatever_else_is_pooled(encoder, tmp_path):
    for method in ("cls", "last"):
        ours = encoder("llama", method, include_instruction=False, include_bos=False)
        ours.save(tmp_path / method)
        theirs = SentenceTransformer(str(tmp_path / method), device="cpu")
        same(theirs.encode(TEXTS, prompt=PROMPT), ours.encode(TEXTS, instruction=TOLD))


@pytest.mark.parametrize(
    ("family", "pooling", "reason"),
    [
        ("bert", {"method": "ata"}, "ata pooling weighs tokens by the attention"),
        ("bert", {"method": "mean"}, r"`include_instruction: false`"),
        ("qwen3", {"method": "weighted_mean"}, r"`include_instruction: false`"),
        (
            "bert",
            {"method": "mean", "include_instruction": True, "include_bos": False},
            "`include_bos: false`",
        ),
    ],
)
def test_what_their_modules_cannot_say_is_said_by_ours(family, pooling, reason, folders, tmp_path):
    """The card says why. For the mean their nearest word, `include_prompt: false`, gives other vectors."""
    options = {"max_length": 32, "device": "cpu"}
    pooled = PoolingConfig(**pooling)
    ours = Encoder.from_pretrained(
        folders[family],
        pooling=pooled.method,
        include_bos=pooled.include_bos,
        include_instruction=pooled.include_instruction,
        **options,
    )
    ours.save(tmp_path / "out")
    assert reason.strip("`") in (tmp_path / "out" / "README.md").read_text()
    assert [module["type"] for module in files.read_json(tmp_path / "out" / "modules.json")] == [MODULE]
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **TRUST)
    told = ours.encode(TEXTS, instruction=TOLD)
    same(theirs.encode(TEXTS, prompt=PROMPT), told)
    if TRUST:
        with pytest.raises(ValueError, match="trust_remote_code"):
            SentenceTransformer(str(tmp_path / "out"), device="cpu")
    if pooled.method != "ata" and pooled.include_bos:
        mode = {"mean": "mean", "weighted_mean": "weightedmean"}[pooled.method]
        parts = [
            Transformer(str(tmp_path / "out")),
            Pooling(ours.dim, mode, include_prompt=False),
            Normalize(),
        ]
        nearest = SentenceTransformer(modules=parts, device="cpu")
        assert (nearest.encode(TEXTS, prompt=PROMPT) * told).sum(1).min() < 0.999


def test_a_model_that_reads_no_instructions_has_none_to_leave_out():
    assert obstacle(PoolingConfig(method="mean"), use_instructions=False) is None


def test_a_tokenizer_that_would_not_do_as_ours_is_kept_out_of_their_hands(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(standard_modules, "_close", lambda *_: None)
    ours = encoder("llama", "last")
    ours.save(tmp_path / "out")
    assert "the tokenizer cannot be written" in (tmp_path / "out" / "README.md").read_text()
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **TRUST)
    assert type(theirs[0]).__name__ == "AtaEmbedder"
    same(theirs.encode(TEXTS), ours.encode(TEXTS))


def test_padding_is_on_the_right_with_whatever_token_there_is(encoder, tmp_path):
    """Version 5.7 counts positions from the padding on the left."""
    ours = encoder("qwen3", "weighted_mean")
    ours.tokenizer.backend.pad_token, ours.tokenizer.backend.padding_side = None, "left"
    ours.save(tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    same(theirs.encode(MANY), ours.encode(MANY))


@pytest.mark.parametrize("method", ["last", "ata"])
def test_queries_and_documents_are_read_as_ours(method, encoder, tmp_path):
    """Queries under the instruction that was given, documents under none; a task's by its name."""
    ours = encoder("qwen3", method)
    prompts = {"query": ours.tokenizer.prefix(TOLD), "STS17": ours.tokenizer.prefix("Compare.")}
    export(ours.model, ours.tokenizer, tmp_path / "out", card="", prompts=prompts)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **TRUST)
    assert theirs.prompts == {"document": ""} | prompts
    assert theirs.default_prompt_name is None
    told = ours.encode(TEXTS, instruction=TOLD)
    same(theirs.encode_query(TEXTS), told)
    same(theirs.encode_document(TEXTS), ours.encode(TEXTS))
    same(theirs.encode(TEXTS, prompt_name="STS17"), ours.encode(TEXTS, instruction="Compare."))
    assert (told * ours.encode(TEXTS)).sum(1).max() < 0.999
    Encoder.from_pretrained(tmp_path / "out", device="cpu").save(tmp_path / "again")
    described = [
        files.read_json(tmp_path / name / "config_sentence_transformers.json") for name in ("out", "again")
    ]
    assert described[0] == described[1]


def test_a_default_prompt_is_that_of_queries_and_documents(encoder, tmp_path):
    ours = encoder("bert", "mean")
    ours.tokenizer.prompt = "a thing: "
    ours.save(tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    vectors = ours.encode(TEXTS)
    for encode in (theirs.encode, theirs.encode_query, theirs.encode_document):
        same(encode(TEXTS), vectors)
    again = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    assert np.array_equal(again.encode(TEXTS), vectors)
    assert (theirs.encode(TEXTS, prompt="") * vectors).sum(1).max() < 0.999


def test_what_is_said_of_the_model_as_a_whole(encoder, tmp_path):
    for bidirectional in (True, False):
        folder = tmp_path / str(bidirectional)
        encoder("qwen3", "last", bidirectional=bidirectional).save(folder)
        said = files.read_json(folder / "config_sentence_transformers.json")
        assert (said["model_type"], said["similarity_fn_name"]) == ("SentenceTransformer", "cosine")
        # Version 6 refuses to load a model whose attention it would have to get wrong.
        assert ("requirements" in said) == bidirectional
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n")
    assert "without `trust_remote_code`" in card
    assert "base_model" not in card  # a folder here, which the hub does not know


@pytest.fixture(scope="module")
def cut(folders, tmp_path_factory) -> Path:
    """An export whose modules are all that there can be. Not to be changed."""
    folder = tmp_path_factory.mktemp("cut") / "out"
    Encoder.from_pretrained(folders["bert"], pooling="cls", dimensions=8, device="cpu").save(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "mean"}, "pooling_mode is 'mean', but mgh-ds .* 'cls'"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt is False"),
        ("2_Dense/config.json", {"bias": True}, "bias is True"),
        ("modules.json", slice(3), "lacks the Normalize"),
        ("modules.json", slice(0, 1), "lacks the Pooling"),
        ("modules.json", slice(None, None, 2), r"module 1 is 2_Dense \(Dense\), which mgh-ds does not"),
        ("2_Dense/model.safetensors", torch.ones(8, 64), "does more than to keep the first 8 dimensions"),
        ("2_Dense/model.safetensors", None, "no readable weights of a cut"),
    ],
)
def test_modules_that_were_changed_since_are_refused(cut, name, content, message, tmp_path):
    shutil.copytree(cut, tmp_path / "out")
    path = tmp_path / "out" / name
    if isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    elif isinstance(content, slice):
        path.write_text(json.dumps(json.loads(path.read_text())[content]))
    elif content is None:
        path.unlink()
    else:
        save_file({"linear.weight": content}, path)
    with pytest.raises(MghError, match=message):
        Encoder.from_pretrained(tmp_path / "out")


def test_a_folder_that_they_saved_again_is_read_again(cut, encoder, tmp_path):
    """In place, where our settings stay, and elsewhere, where theirs are all there is."""
    ours = Encoder.from_pretrained(cut, device="cpu")
    shutil.copytree(cut, tmp_path / "out")
    SentenceTransformer(str(cut), device="cpu").save(str(tmp_path / "out"))
    again = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    assert np.array_equal(again.encode(TEXTS), ours.encode(TEXTS))

    ours = encoder("llama", "weighted_mean")
    ours.save(tmp_path / "llama")
    SentenceTransformer(str(tmp_path / "llama"), device="cpu").save(str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere" / "mgh_ds.json").exists()
    again = Encoder.from_pretrained(tmp_path / "elsewhere", device="cpu")
    assert (again.max_length, again.causal) == (32, False)
    same(again.encode(MANY), ours.encode(MANY))
