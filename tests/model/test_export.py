"""What `export` writes: loadable by ours and by sentence-transformers, merged, complete, and without touching
the model.
"""

import shutil

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from mgh_ds.common.errors import MghError
from mgh_ds.model.config import ModelConfig, PoolingConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.export import export
from mgh_ds.model.sentence_transformers_module import AtaEmbedder
from tests.model.conftest import FAMILIES, TEXTS

# From version 6 on, sentence-transformers imports classes of other packages only where it is told to.
OPTIONS = {} if int(sentence_transformers.__version__.split(".")[0]) < 6 else {"trust_remote_code": True}
INSTRUCTION = "Find a sentence on the same subject."


@pytest.fixture(params=["minilm", "mistral", "qwen3"])
def trained(request, folders):
    """A model whose adapters are no longer zero, and its tokenizer."""
    config = ModelConfig(
        name_or_path=str(folders[request.param]),
        pooling=PoolingConfig(column_transform="log1p", include_bos=False),
        max_length=64,
    )
    model, tokenizer = build_model(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return model, tokenizer


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("minilm", "mistral", "qwen3")])
def test_sentence_transformers_loads_every_family(family, folders, tmp_path):
    config = ModelConfig(name_or_path=str(folders[family]), max_length=64, padding_free=False)
    model, tokenizer = build_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += torch.linspace(-0.05, 0.05, parameter.numel()).view_as(parameter)
    vectors = Encoder(model, tokenizer).encode(TEXTS)
    export(model, tokenizer, tmp_path / "out", card="")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    assert (vectors * theirs.encode(TEXTS)).sum(1).min() >= 0.99999


def test_ours_and_sentence_transformers_load_the_same_encoder(trained, tmp_path):
    vectors = Encoder(*trained).encode(TEXTS)
    told = Encoder(*trained).encode(TEXTS, instruction=INSTRUCTION)
    export(*trained, tmp_path / "out", card="# A card")
    ours = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    prompt = f"Instruct: {INSTRUCTION}\nQuery: "
    # Merged adapters round differently, by about 1e-7 in each of 384 products.
    assert (vectors * ours.encode(TEXTS)).sum(1).min() >= 0.99999
    assert (told * ours.encode(TEXTS, instruction=INSTRUCTION)).sum(1).min() >= 0.99999
    assert (ours.encode(TEXTS) * theirs.encode(TEXTS)).sum(1).min() >= 0.9999
    assert (told * theirs.encode(TEXTS, prompt=prompt)).sum(1).min() >= 0.9999
    assert (vectors * told).sum(1).max() < 0.999  # so that the instruction was not simply ignored
    assert theirs.max_seq_length == 64
    assert theirs.get_embedding_dimension() == ours.dim


def test_adapters_were_merged_and_not_lost(trained, tmp_path):
    model, tokenizer = trained
    vectors = Encoder(model, tokenizer).encode(TEXTS)
    with model.backbone.disable_adapter():
        assert (vectors * Encoder(model, tokenizer).encode(TEXTS)).sum(1).max() < 0.999
    export(model, tokenizer, tmp_path / "out", card="")
    again = Encoder.from_pretrained(tmp_path / "out").model
    assert not any("lora" in name for name, _ in again.named_parameters())


def test_a_model_that_is_cut_stays_cut(trained, tmp_path):
    model, tokenizer = trained
    whole = Encoder(model, tokenizer).encode(TEXTS)
    wanted = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    model.cut_to(16)
    export(model, tokenizer, tmp_path / "out", card="")
    ours = Encoder.from_pretrained(tmp_path / "out", device="cpu")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    for vectors in (Encoder(model, tokenizer).encode(TEXTS), ours.encode(TEXTS), theirs.encode(TEXTS)):
        assert vectors.shape == wanted.shape
        assert (vectors * wanted).sum(1).min() >= 0.9999
    assert ours.dim == theirs.get_embedding_dimension() == 16
    assert Encoder.from_pretrained(tmp_path / "out", dimensions=8).dim == 8
    with pytest.raises(MghError, match="dimensions is 100000, but the model's embeddings have 1 to"):
        Encoder.from_pretrained(tmp_path / "out", dimensions=100_000)


def test_the_model_in_training_is_not_touched(trained, tmp_path):
    model, tokenizer = trained
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, tokenizer, tmp_path / "out", card="")
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sentence_transformers_can_save_it_again(trained, tmp_path):
    export(*trained, tmp_path / "out", card="")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    theirs.save(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu", **OPTIONS)
    assert np.array_equal(theirs.encode(TEXTS), again.encode(TEXTS))
    ours = Encoder.from_pretrained(tmp_path / "again", device="cpu", padding_free=False)  # as theirs
    assert np.array_equal(ours.encode(TEXTS), again.encode(TEXTS))


@pytest.mark.parametrize("module", [Dense(64, 16), Normalize()])
def test_what_sentence_transformers_puts_behind_it_is_honoured_or_refused(folders, tmp_path, module):
    """Unit vectors of unit length are the same."""
    encoder = Encoder.from_pretrained(folders["bert"], device="cpu")
    encoder.save(tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    theirs.append(module)
    theirs.save(str(tmp_path / "again"))
    if isinstance(module, Normalize):
        again = Encoder.from_pretrained(tmp_path / "again", device="cpu")
        assert np.array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    else:
        with pytest.raises(
            MghError, match=r"modules\.json: module 1 is 1_Dense \(Dense\), which mgh-ds does"
        ):
            Encoder.from_pretrained(tmp_path / "again")


def test_a_transformer_of_theirs_in_its_place_is_refused(folders, tmp_path):
    Encoder.from_pretrained(folders["bert"], device="cpu").save(tmp_path / "out")
    modules = [Transformer(str(tmp_path / "out")), Pooling(64, pooling_mode="cls")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "out"), create_model_card=False)
    with pytest.raises(MghError, match=r"module 0 is Transformer \(Transformer\), which mgh-ds does"):
        Encoder.from_pretrained(tmp_path / "out")


def test_the_folder_holds_no_pickles_and_no_attention_of_ours_in_the_config(trained, tmp_path):
    export(*trained, tmp_path / "out", card="# A card\n")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "modules.json", "mgh_ds.json"} <= names
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".json", ".safetensors", ".md", ".txt"}
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"
    assert "attn_implementation" not in (tmp_path / "out" / "config.json").read_text()


def test_an_existing_folder_is_refused(trained, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(MghError, match="exists already"):
        export(*trained, tmp_path / "out", card="")


def test_a_failure_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    model, tokenizer = trained

    def fail(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(tokenizer, "save", fail)
    with pytest.raises(OSError, match="No space"):
        export(model, tokenizer, tmp_path / "out", card="")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_kept(folders, tmp_path):
    model, tokenizer = build_model(ModelConfig(name_or_path=str(folders["mistral"]), dtype="bfloat16"))
    export(model, tokenizer, tmp_path / "out", card="")
    again = Encoder.from_pretrained(tmp_path / "out", dtype="bfloat16", device="cpu")
    assert again.model.backbone.dtype == torch.bfloat16
    assert (Encoder(model, tokenizer).encode(TEXTS) * again.encode(TEXTS)).sum(1).min() > 0.9999


@pytest.fixture
def exported(folders, tmp_path):
    """The folder of a small model, in half precision."""
    config = ModelConfig(name_or_path=str(folders["qwen3"]), dtype="bfloat16", lora=None, max_length=32)
    export(*build_model(config), tmp_path / "out", card="")
    return tmp_path / "out"


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bfloat16", torch.bfloat16),
        (torch.float16, torch.float16),
        ("auto", torch.bfloat16),
        (None, torch.float32),
    ],
)
def test_the_precision_is_that_which_is_asked_for(exported, key, value, expected):
    loaded = AtaEmbedder.load(str(exported), model_kwargs={key: value})
    assert loaded.model.backbone.dtype == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_kwargs": {"dtype": "int8"}}, "dtype must be auto or one of float32.*'int8'"),
        ({"model_kwargs": {"attn_implementation": "sdpa"}}, "model_kwargs holds attn_implementation"),
        ({"processor_kwargs": {"padding_side": "left"}}, "processor_kwargs holds padding_side"),
        ({"config_kwargs": {"is_causal": True}}, "config_kwargs holds is_causal"),
        ({"backend": "onnx"}, "backend is 'onnx'"),
        ({"model_name_or_path": "nobody/has-such-a-model"}, "no model 'nobody/has-such-a-model'"),
    ],
)
def test_options_that_would_be_void_are_refused(exported, options, message):
    with pytest.raises(MghError, match=message):
        AtaEmbedder.load(**{"model_name_or_path": str(exported)} | options)


def test_it_is_found_by_its_name_on_the_hub(exported, tmp_path):
    repository = tmp_path / "hub" / "models--some--model"
    shutil.copytree(exported, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    theirs = SentenceTransformer(
        "some/model", cache_folder=str(tmp_path / "hub"), local_files_only=True, device="cpu", **OPTIONS
    )
    ours = Encoder.from_pretrained(exported, device="cpu")
    assert (ours.encode(TEXTS) * theirs.encode(TEXTS)).sum(1).min() >= 0.9999


def test_a_length_that_the_model_does_not_take_is_refused(folders, tmp_path):
    Encoder.from_pretrained(folders["roberta"]).save(tmp_path / "out")
    theirs = AtaEmbedder.load(str(tmp_path / "out"))
    theirs.max_seq_length = 510
    with pytest.raises(MghError, match="max_length is 511, but the model takes at most 510 tokens"):
        theirs.max_seq_length = 511
    for length in (3, 0, None, 16.0):
        with pytest.raises(MghError, match=f"must be a whole number of 4 or more, found {length}"):
            theirs.max_seq_length = length
    assert theirs.max_seq_length == 510


def test_a_model_that_reads_no_instructions_reads_none_there_either(folders, tmp_path):
    config = ModelConfig(name_or_path=str(folders["qwen3"]), use_instructions=False, lora=None)
    export(*build_model(config), tmp_path / "out", card="")
    ours = Encoder.from_pretrained(tmp_path / "out", device="cpu", padding_free=False)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    with pytest.warns(UserWarning, match="reads no instructions: 'Instruct: Find it"):
        told = theirs.encode(TEXTS, prompt="Instruct: Find it.\nQuery: ")
    assert np.array_equal(told, ours.encode(TEXTS))
    with pytest.raises(MghError, match=r"use_instructions: false.* leave out the instruction 'Find it\.'"):
        ours.encode(TEXTS, instruction="Find it.")


def test_nan_is_an_error_there_too(folders, tmp_path):
    Encoder.from_pretrained(folders["mistral"], device="cpu").save(tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", **OPTIONS)
    broken = "backbone.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        theirs[0].model.get_parameter(broken)[0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"NaN or infinity for 2 of 2 texts: its weight {broken} .*float32"):
        theirs.encode(["a", "bb"])
    features = theirs.tokenize(["a"])
    assert theirs.train()(features)["sentence_embedding"].isnan().all()  # a trainer may skip such a step


def test_a_default_prompt_that_was_set_there_is_ours_too(exported, tmp_path):
    for name in ("first", "second"):  # set, and then taken away
        prompts = {"prompts": {"of": "query: "}, "default_prompt_name": "of"} if name == "first" else {}
        theirs = SentenceTransformer(str(exported), device="cpu", **prompts, **OPTIONS)
        theirs.save(str(tmp_path / name))
        ours = Encoder.from_pretrained(tmp_path / name, device="cpu", padding_free=False)
        assert ours.tokenizer.prompt == ours.prompt == ("query: " if prompts else "")
        assert np.array_equal(ours.encode(TEXTS), theirs.encode(TEXTS))
