"""Exports as ONNX graphs: onnxruntime gives torch's vectors, and what does not is not left behind.

One graph takes seconds to trace, so that the families' own are in tests/system/test_onnx.py.
"""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mgh_ds import cli
from mgh_ds.common.errors import MghError
from mgh_ds.model import onnx_graph
from mgh_ds.model.encoder import Encoder
from tests.model.conftest import TEXTS

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

INSTRUCTION = "Find a sentence on the same subject."
# One of them empty, and one longer than the longest input of the model.
MORE = [*TEXTS, "", "a b", " ".join(TEXTS * 9)]


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory):
    """An ATA export of a decoder that says everything that the graph must obey, and its encoder in torch."""
    encoder = Encoder.from_pretrained(
        folders["mistral"],
        "ata",
        column_transform="visible_mean",
        sink="clip",
        clip_multiple=1.0,
        layers=[0, -1],
        include_bos=False,
        bidirectional=False,  # else visible_mean and identity are the same
        dimensions=48,
        max_length=64,
        device="cpu",
    )
    folder = tmp_path_factory.mktemp("onnx") / "out"
    encoder.save(folder, onnx=True, int8=True)
    return folder, encoder


@pytest.fixture(scope="module")
def standard(folders, tmp_path_factory):
    """An export whose pooling sentence-transformers has, by the command line."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    encoder = Encoder.from_pretrained(folders["qwen3"], "mean", include_instruction=True, device="cpu")
    encoder.save(folder.with_name("plain"))
    cli.main(["export", str(folder.with_name("plain")), str(folder), "--onnx"])
    return folder, encoder


@pytest.mark.parametrize("instruction", [None, INSTRUCTION])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_the_graph_gives_torchs_vectors(exported, instruction, batch_size):
    folder, encoder = exported
    wanted = encoder.encode(MORE, instruction)
    found = Encoder.from_pretrained(folder, backend="onnx").encode(MORE, instruction, batch_size)
    assert found.shape == (len(MORE), 48)
    assert (wanted * found).sum(1).min() >= 0.9999
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5


def test_the_settings_of_the_pooling_show_in_the_vectors(exported):
    """So that the cosine above could have failed."""
    folder, _ = exported
    wanted = Encoder.from_pretrained(folder, backend="onnx").encode(TEXTS, INSTRUCTION)
    for option in (
        {"sink": "keep"},
        {"column_transform": "identity"},
        {"layers": [-1]},
        {"include_bos": True},
        {"include_instruction": True},
        {"bidirectional": True},
    ):
        other = Encoder.from_pretrained(folder, device="cpu", **option).encode(TEXTS, INSTRUCTION)
        assert (wanted * other).sum(1).min() < 0.9999, option


def test_the_quantised_graph_is_near_and_said_to_be(exported):
    folder, encoder = exported
    found = Encoder.from_pretrained(folder, backend="onnx-int8").encode(TEXTS)
    cosines = (encoder.encode(TEXTS) * found).sum(1)
    assert 0.9 < cosines.min() < 0.99999
    card = (folder / "README.md").read_text()
    assert "`input_ids`, `attention_mask`, `pooling_mask` (int64" in card
    assert "quantised to 8 bits: cosines to torch's vectors\nof 0." in card
    sizes = [(folder / "onnx" / name).stat().st_size for name in ("model.onnx", "model_qint8.onnx")]
    assert sizes[1] < sizes[0]


def test_a_standard_pooling_asks_for_what_other_tools_have(standard):
    """onnxruntime alone, with the inputs that sentence-transformers' ONNX back end gives."""
    folder, encoder = standard
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    assert [node.name for node in session.get_inputs()] == ["input_ids", "attention_mask"]
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np")
    states, vectors = session.run(None, {name: tokens[name] for name in ("input_ids", "attention_mask")})
    mask = tokens["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    wanted = encoder.encode(TEXTS)
    assert (wanted * vectors).sum(1).min() >= 0.9999
    assert np.allclose(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), vectors, atol=1e-5)
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == ["model.onnx"]


def test_what_the_graph_does_not_compute_is_refused(exported, standard):
    folder, _ = exported
    with pytest.raises(MghError, match=r"pooling\.sink: clip → keep\. Export the model with these settings"):
        Encoder.from_pretrained(folder, sink="keep", backend="onnx")
    with pytest.raises(MghError, match=r"dimensions: 48 → 8"):
        Encoder.from_pretrained(folder, dimensions=8, backend="onnx")
    with pytest.raises(MghError, match="runs on the CPU"):
        Encoder.from_pretrained(folder, device="cuda", backend="onnx")
    with pytest.raises(MghError, match="computes in float32"):
        Encoder.from_pretrained(folder, dtype="bfloat16", backend="onnx")
    with pytest.raises(MghError, match="backend must be one of torch, onnx, onnx-int8"):
        Encoder.from_pretrained(folder, backend="tensorrt")
    with pytest.raises(MghError, match=r"model_qint8\.onnx does not exist: .*--onnx --int8"):
        Encoder.from_pretrained(standard[0], backend="onnx-int8")
    graph = Encoder.from_pretrained(folder, backend="onnx")
    with pytest.raises(MghError, match="no weights to save"):
        graph.save(folder.with_name("again"))
    with pytest.raises(MghError, match="gives the vectors alone"):
        graph.model.token_weights(graph.tokenizer.tokenize(TEXTS))


def test_a_shorter_length_is_the_tokenizers_and_obeyed(exported):
    folder, _ = exported
    wanted = Encoder.from_pretrained(folder, max_length=12, device="cpu").encode(TEXTS)
    found = Encoder.from_pretrained(folder, max_length=12, backend="onnx").encode(TEXTS)
    assert (wanted * found).sum(1).min() >= 0.9999


def test_a_damaged_graph_and_one_of_others_are_refused(exported, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(exported[0], folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(MghError, match=r"model\.onnx is no graph that onnxruntime reads"):
        Encoder.from_pretrained(folder, backend="onnx")


@pytest.mark.parametrize(
    ("broken", "message"),
    [("_agreement", "was not kept"), ("_write", "torch.onnx.export .* was tried, and says: no rule")],
)
def test_nothing_is_left_of_an_export_that_fails(broken, message, folders, tmp_path, monkeypatch):
    """Neither of a graph that gives other vectors, nor of one that cannot be traced."""

    def refuse(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("for the user") from NotImplementedError("no rule\nmore")

    if broken == "_write":
        monkeypatch.setattr(torch.onnx, "export", refuse)
    else:
        monkeypatch.setattr(onnx_graph, "_write", lambda *_: None)
        monkeypatch.setattr(onnx_graph, "OnnxModel", lambda *_: lambda batch: -torch.ones(batch.texts, 64))
    encoder = Encoder.from_pretrained(folders["bert"], device="cpu")
    with pytest.raises(MghError, match=message):
        encoder.save(tmp_path / "out", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_int8_alone_and_options_of_runs_are_refused(folders, tmp_path):
    for words, message in (
        (["--int8"], "--int8 quantises the ONNX graph"),
        (["--checkpoint", "best"], "--checkpoint is for runs"),
        (["--interpolate", "0.5"], "--interpolate is for runs"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["export", str(folders["bert"]), str(tmp_path / "out"), *words])
    with pytest.raises(MghError, match="ask for onnx as well"):
        Encoder.from_pretrained(folders["bert"], device="cpu").save(tmp_path / "out", int8=True)
    assert not (tmp_path / "out").exists()
