"""What `export` writes: loadable by ours and by sentence-transformers, merged, complete, and without touching
the model.
"""

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer

from mgh_ds.common.errors import MghError
from mgh_ds.model.config import ModelConfig, PoolingConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.export import export
from tests.model.conftest import TEXTS

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


def test_the_folder_holds_no_pickles_and_nothing_of_ours_in_the_config(trained, tmp_path):
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
