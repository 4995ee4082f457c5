"""The benchmark of bfloat16 on a CPU, on a model that runs in moments."""

from benchmarks import precision
from mgh_ds.model.precision import settle


def test_both_kinds_of_work_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    arguments = ["--model", "tiny-random/llama", "--rounds", "3", "--texts", "4", "--longest", "12"]
    assert precision.main([*arguments, "--output", str(tmp_path)]) == 0
    lines = (tmp_path / "cpu-precision-avx2.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in lines if not line.startswith("#")]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["work"] for row in rows] == ["training step", "encoding"]
    for row in rows:
        assert row["auto"] == settle("auto", precision.CPU)
        assert float(row["lower_quartile"]) <= float(row["faster"]) <= float(row["upper_quartile"])
        assert float(row["float32_ms"]) > 0 < float(row["bfloat16_ms"])
    assert "training step: bfloat16 is " in capsys.readouterr().out


def test_each_precision_is_really_used():
    for dtype in precision.DTYPES:
        model, batch = precision._prepare("tiny-random/llama", dtype, 4, 12)
        assert str(model.backbone.dtype) == f"torch.{dtype}"
        assert batch.texts == 4
    assert precision._prepare("tiny-random/llama", "float32", 4, 12)[1].tokens == batch.tokens
