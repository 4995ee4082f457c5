"""`mgh-ds eval` from its arguments to its files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.evaluation.commands import eval_command
from mgh_ds.model.encoder import Encoder

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def test_writes_json_and_markdown_and_prints_the_table(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "minilm.json"
    eval_command(MINILM, ["STS17", "SciFact"], output, pooling="mean", data_dir=data_dir, max_length=64)
    content = json.loads(output.read_text())
    assert list(content["tasks"]) == ["STS17", "SciFact"]
    assert content["model"] == MINILM
    assert content["settings"]["max_length"] == 64
    assert {"mteb", "torch", "transformers"} <= content["settings"]["versions"].keys()
    printed = capsys.readouterr().out
    for name, task in content["tasks"].items():
        figure = f"{100 * task['score']:.2f}"
        assert name in printed
        assert figure in printed
        assert figure in output.with_suffix(".md").read_text()
    assert sorted(path.name for path in output.parent.iterdir()) == ["minilm.json", "minilm.md"]


def test_pooling_and_transform_reach_the_encoder(data_dir: Path, tmp_path: Path) -> None:
    scores = {}
    for transform in ("identity", "log1p"):
        output = tmp_path / f"{transform}.json"
        eval_command(MINILM, ["STS17"], output, pooling="ata", column_transform=transform, data_dir=data_dir)
        content = json.loads(output.read_text())
        assert content["pooling"] == "ata"
        scores[transform] = content["details"]["STS17"]["scores"]["test"][0]["cosine_pearson"]
    assert scores["identity"] != pytest.approx(scores["log1p"], abs=1e-6)


def test_sink_and_dimensions_reach_the_encoder_and_tell_results_apart(data_dir: Path, tmp_path: Path) -> None:
    model, scores = "tiny-random/mistral", {}
    for given in ({}, {"sink": "first"}, {"sink": "clip", "clip_multiple": 1.2}, {"dimensions": 8}):
        output = tmp_path / given.get("sink", "cut" if given else "keep")
        eval_command(model, ["STS17"], output, pooling="ata", data_dir=data_dir, **given)
        content = json.loads((output / "STS17.json").read_text())
        # A result of before there was this option names none, and must not be scored anew for that.
        assert {name: content["fingerprint"]["settings"].get(name) for name in given} == given
        for option in ("sink", "dimensions"):
            assert (option in content["fingerprint"]["settings"]) is (option in given)
        scores[output.name] = content["details"]["STS17"]["scores"]["test"][0]["cosine_pearson"]
    assert len(set(scores.values())) == 4
    with pytest.raises(MghError, match="holds results with sink first, asked for was not given"):
        eval_command(model, ["STS17"], tmp_path / "first", pooling="ata", data_dir=data_dir)


def test_causal_reaches_the_encoder(data_dir: Path, tmp_path: Path) -> None:
    scores = []
    for causal in (False, True):
        output = tmp_path / f"{causal}.json"
        eval_command(
            "tiny-random/mistral", ["STS17"], output, pooling="last", causal=causal, data_dir=data_dir
        )
        scores.append(
            json.loads(output.read_text())["details"]["STS17"]["scores"]["test"][0]["cosine_pearson"]
        )
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "--tasks is empty"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"languages": ["deu"]}, "--languages is for tasks from the hub"),
        ({"tasks": ["STSBenchmark"]}, "no local layout"),
        ({"model": "no/such-model"}, "no/such-model"),
        ({"causal": True}, "--causal is for decoders"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(
    data_dir: Path, tmp_path: Path, options: dict, message: str
) -> None:
    arguments = {"model": MINILM, "tasks": ["STS17"], "output": "result.json", "data_dir": data_dir} | options
    arguments["output"] = tmp_path / "results" / arguments["output"]
    with pytest.raises(MghError, match=message):
        eval_command(**arguments)
    assert not list(tmp_path.glob("results/*"))


def test_a_folder_keeps_a_file_a_task_and_scores_none_twice(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, options = tmp_path / "results", {"pooling": "mean", "data_dir": data_dir, "max_length": 64}
    eval_command(MINILM, ["SciFact"], output, **options)
    eval_command(MINILM, ["STS17"], output, **options)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.json")}
    assert sorted(path.name for path in before) == ["STS17.json", "SciFact.json"]

    eval_command(MINILM, ["STS17", "SciFact"], output, **options)
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.json")} == before
    eval_command(MINILM, ["STS17", "SciFact"], tmp_path / "together.json", **options)
    assert (output / "results.md").read_text() == (tmp_path / "together.md").read_text()

    capsys.readouterr()
    with pytest.raises(MghError, match="results with pooling mean, asked for was ata"):
        eval_command(MINILM, ["STS17"], output, **options | {"pooling": "ata"})
    with pytest.raises(MghError, match=r"results with label .*MiniLM.*, asked for was other"):
        eval_command("other", ["STS17"], output, **options)
    with pytest.raises(MghError, match="results with max_length 64, asked for was 32: name another folder"):
        eval_command(MINILM, ["STS17", "SICK-R"], output, **options | {"max_length": 32})
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.json")} == before
    assert capsys.readouterr().out == ""


def test_an_output_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder.json").mkdir()
    for output in (tmp_path / "taken", tmp_path / "folder.json"):
        with pytest.raises(MghError, match=r"must name a file that ends in \.json, or a folder"):
            eval_command(MINILM, ["STS17"], output)


def test_output_below_a_file_is_refused(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(MghError, match="nothing can be written to"):
        eval_command(MINILM, ["STS17"], tmp_path / "taken" / "result.json", data_dir=data_dir)


@pytest.mark.parametrize("name", ["", "result.json"])
def test_an_output_that_takes_no_file_is_noticed_before_a_model_is_looked_for(
    data_dir: Path, name: str
) -> None:
    with pytest.raises(MghError, match=r"--output /sys/?.*: nothing can be written to /sys \(.+\)"):
        eval_command("no/such-model", ["STS17"], Path("/sys") / name, data_dir=data_dir)


def test_reading_the_command_loads_nothing_heavy() -> None:
    script = (
        "import sys, mgh_ds.evaluation.commands\n"
        "print([name for name in ('mteb', 'torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_graph_is_scored_and_its_scores_are_told_from_torchs(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tmp_path / "export"
    Encoder.from_pretrained("tiny-random/bert", device="cpu").save(model, onnx=True)
    scores = {}
    for backend in ("torch", "onnx"):
        output = tmp_path / backend
        eval_command(str(model), ["STS17"], output, data_dir=data_dir, backend=backend)
        content = json.loads((output / "STS17.json").read_text())
        graph = backend == "onnx"
        assert ("onnx/model.onnx" in content["fingerprint"]["weights"]) is graph
        assert content["fingerprint"]["settings"].get("backend") == ("onnx" if graph else None)
        scores[backend] = content["details"]["STS17"]["scores"]["test"][0]["cosine_pearson"]
    assert scores["onnx"] == pytest.approx(scores["torch"], abs=1e-4)
    with pytest.raises(MghError, match="holds results with backend onnx, asked for was not given"):
        eval_command(str(model), ["STS17"], tmp_path / "onnx", data_dir=data_dir)
    with pytest.raises(MghError, match=r"model_qint8\.onnx does not exist: .*--onnx --int8"):
        eval_command(str(model), ["STS17"], tmp_path / "new", data_dir=data_dir, backend="onnx-int8")
