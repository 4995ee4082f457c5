"""The benchmark of ONNX graphs: what is compared. Models are stand-ins, since tracing one takes seconds."""

import numpy as np
import pytest

from benchmarks import onnx
from mgh_ds.model.encoder import Encoder


class StandIn:
    """An encoder whose vectors turn by the angle that its back end is known by."""

    def __init__(self, angle: float) -> None:
        self.angle = angle
        self.calls = 0

    def encode(self, texts, batch_size):
        assert batch_size == 2
        self.calls += 1
        return np.tile(
            np.array([[np.cos(self.angle), np.sin(self.angle)]], dtype=np.float32), (len(texts), 1)
        )

    def save(self, folder, *, onnx, int8):
        assert onnx
        assert int8
        (folder / "onnx").mkdir(parents=True)
        for name, size in (("model.safetensors", 3), ("onnx/model.onnx", 2), ("onnx/model_qint8.onnx", 1)):
            (folder / name).write_bytes(bytes(size * 2**20))


@pytest.fixture
def stand_ins(monkeypatch):
    found = {"torch": StandIn(0.0), "onnx": StandIn(0.0), "onnx-int8": StandIn(0.1)}
    monkeypatch.setattr(onnx, "need", lambda *_: None)
    monkeypatch.setattr(Encoder, "from_pretrained", lambda *_, backend="torch", **__: found[backend])
    return found


def test_all_back_ends_do_the_same_texts_and_are_compared_with_torch(stand_ins, tmp_path, capsys):
    arguments = ["--models", "m", "--poolings", "mean", "--texts", "5", "--batch-size", "2", "--rounds", "3"]
    assert onnx.main([*arguments, "--output", str(tmp_path)]) == 0
    lines = (tmp_path / "onnx-cpu.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in lines if not line.startswith("#")]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["backend"] for row in rows] == list(stand_ins)
    assert [float(row["mib"]) for row in rows] == [3, 2, 1]
    assert [round(float(row["least_cosine"]), 3) for row in rows] == [1, 1, 0.995]
    assert float(rows[0]["of_torch"]) == 1
    assert {row["texts"] for row in rows} == {"5"}
    assert {stand_in.calls for stand_in in stand_ins.values()} == {4}  # one for the vectors, three rounds
    assert "m, mean: onnx-int8 takes " in capsys.readouterr().out
    assert any(line.startswith("# onnxruntime,") for line in lines)


def test_the_texts_are_those_of_the_bundled_records():
    texts = onnx.bundled_texts(6)
    assert len(texts) == 6
    assert len(set(texts)) > 1
