"""Every family and pooling as an ONNX graph: the vectors are torch's."""

import json
import shutil

import pytest

from mgh_ds.model.encoder import Encoder
from mgh_ds.model.tiny import CONFIGS, cached_tiny_model
from tests.model.conftest import TEXTS

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.system

INSTRUCTION = "Find a sentence on the same subject."
ATA = [
    {"column_transform": "identity", "sink": "first"},
    {"column_transform": "log1p", "sink": "clip", "layers": [0, -1]},
    {"column_transform": "sqrt"},
    {"column_transform": "softmax", "sink": "clip"},
    {"column_transform": "visible_mean", "include_bos": False},
]
OTHERS = ["mean", "last", "cls", "weighted_mean"]
# Each family with an ATA of its own, bidirectional and causal by turns, and each other pooling with a few.
CASES = [
    *((family, "ata", i % 2 == 0, ATA[i % len(ATA)]) for i, family in enumerate(CONFIGS)),
    *((family, "ata", False, {}) for family in ("mistral", "gemma3_text", "gemma2")),
    *((family, OTHERS[i % len(OTHERS)], i % 2 == 1, {}) for i, family in enumerate(CONFIGS)),
]


@pytest.mark.parametrize(("family", "pooling", "bidirectional", "options"), CASES)
def test_the_graph_gives_torchs_vectors(family, pooling, bidirectional, options, tmp_path):
    encoder = Encoder.from_pretrained(
        cached_tiny_model(family),
        pooling,
        bidirectional=bidirectional,
        max_length=64,
        device="cpu",
        **options,
    )
    encoder.save(tmp_path / "out", onnx=True)
    graph = Encoder.from_pretrained(tmp_path / "out", backend="onnx")
    texts = [*TEXTS, "", " ".join(TEXTS * 3)]
    for instruction in (None, INSTRUCTION):
        wanted = encoder.encode(texts, instruction)
        for batch_size in (1, len(texts)):
            assert (wanted * graph.encode(texts, instruction, batch_size)).sum(1).min() >= 0.9999


@pytest.mark.parametrize(
    ("family", "pooling", "changes"),
    [
        ("bert", "ata", {}),
        ("modernbert", "ata", {"local_attention": 256}),
        ("modernbert", "mean", {"local_attention": 256}),
        ("mistral", "mean", {"sliding_window": 128}),
    ],
)
def test_texts_beyond_the_window_and_the_longest_input(family, pooling, changes, tmp_path):
    """The window, of 128 tokens on each side, is wider than the texts that a graph is traced with."""
    folder = shutil.copytree(cached_tiny_model(family), tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    encoder = Encoder.from_pretrained(folder, pooling, include_instruction=True, device="cpu")
    texts = [TEXTS[1], " ".join(TEXTS * 3), " ".join(TEXTS * 5), " ".join(TEXTS * 20)]
    lengths = [len(ids) for ids, _ in encoder.tokenizer.rows(texts)]
    assert lengths[1] > 150
    assert lengths[3] == encoder.max_length
    encoder.save(tmp_path / "out", onnx=True)
    graph = Encoder.from_pretrained(tmp_path / "out", backend="onnx")
    wanted = encoder.encode(texts)
    for batch_size in (1, len(texts)):
        assert (wanted * graph.encode(texts, batch_size=batch_size)).sum(1).min() >= 0.9999
    if changes:
        plain = Encoder.from_pretrained(cached_tiny_model(family), pooling, include_instruction=True)
        assert (wanted * plain.encode(texts)).sum(1).min() < 0.9999, "the window proves nothing"
