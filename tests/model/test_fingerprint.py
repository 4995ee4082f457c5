"""A model's fingerprint: what makes its vectors counts, and nothing else."""

import json
import shutil

import pytest

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.model import tiny
from mgh_ds.model.fingerprint import fingerprint


@pytest.fixture
def folder(folders, tmp_path):
    """A tiny BERT as sentence-transformers would save it."""
    path = tmp_path / "model"
    shutil.copytree(folders["bert"], path)
    modules = [{"path": "", "type": "Transformer"}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    files.write_json(path / "modules.json", modules)
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("{}")
    return path


def changed(folder, name):
    """What differs once a byte was added to a file."""
    before = fingerprint(str(folder))
    with (folder / name).open("a") as file:
        file.write(" ")
    after = fingerprint(str(folder))
    return {key for key in before | after if before.get(key) != after.get(key)}


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "sentence_roberta_config.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
    ],
)
def test_what_makes_the_vectors_counts(folder, name):
    assert changed(folder, name) == {name}


@pytest.mark.parametrize("name", ["README.md", "LICENSE.txt", "generation_config.json"])
def test_what_does_not_make_them_does_not_count(folder, name):
    assert changed(folder, name) == set()


def test_shards_count_and_weights_of_another_layout_do_not(folder):
    shutil.move(folder / "model.safetensors", folder / "part-1.safetensors")
    (folder / "consolidated.safetensors").write_text("")
    files.write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "part-1.safetensors"}})
    assert changed(folder, "part-1.safetensors") == {"part-1.safetensors"}
    assert changed(folder, "consolidated.safetensors") == set()
    for broken in ([], {}, {"weight_map": 3}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(broken))
        with pytest.raises(MghError, match=r"model\.safetensors\.index\.json names no parts"):
            fingerprint(str(folder))


def test_a_tiny_model_is_known_by_its_recipe():
    """Its files hold versions of libraries too."""
    found = fingerprint("tiny-random/bert")
    assert found == {"recipe": f"tiny-random/bert, version {tiny.VERSION}"}
    assert found != fingerprint("tiny-random/mistral")


def test_a_model_that_is_not_there_is_refused():
    with pytest.raises(MghError, match="no model 'runs/nowhere'"):
        fingerprint("runs/nowhere")
