"""A figure is of the weights, settings, data, prompts and versions under whose name it is printed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.evaluation import fingerprint
from mgh_ds.evaluation.commands import eval_command
from mgh_ds.evaluation.results import EvaluationResult, joined
from mgh_ds.evaluation.run import evaluate_heldout
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.settings import Settings, write_settings
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.records.schema import Record

Score = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one shape."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        make_tiny_model("bert", folder / str(seed), seed=seed)
    return [folder / "1", folder / "2"]


@pytest.fixture
def model(models: list[Path], tmp_path: Path) -> Path:
    """The first, to be changed."""
    shutil.copytree(models[0], tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def score(data_dir: Path, tmp_path: Path) -> Score:
    """What `mgh-ds eval` leaves of STS17 and SICK-R in a folder, by task."""

    def score(model: Path, output: str = "results", **options: Any) -> dict[str, float]:
        names = ["STS17", "SICK-R"]
        eval_command(str(model), names, tmp_path / output, data_dir=data_dir, **options)
        return {name: content(tmp_path / output, name)["tasks"][name]["score"] for name in names}

    return score


def content(folder: Path, task: str) -> dict[str, Any]:
    return json.loads((folder / f"{task}.json").read_text())


def test_new_weights_under_the_same_name_are_scored_anew(
    model: Path, models: list[Path], score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    first = score(model)
    assert score(model) == first
    assert "anew" not in printed(capsys)
    shutil.copy(models[1] / "model.safetensors", model)
    second = score(model)
    said = printed(capsys)
    for name in first:
        assert f"{name}.json is scored anew, since it was made of another weights.model.safetensors" in said
        assert second[name] != first[name]
    assert second == score(models[1], "other")


def test_other_data_are_scored_anew_and_they_alone(
    model: Path, score: Score, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = score(model)
    kept = (tmp_path / "results" / "SICK-R.json").stat().st_mtime_ns
    path = data_dir / "STS17-en" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"score": 5 - row["score"]}) + "\n" for row in rows))
    capsys.readouterr()
    second = score(model)
    assert second["STS17"] == pytest.approx(-first["STS17"])
    assert "STS17.json is scored anew, since it was made of another data.STS17.revision" in printed(capsys)
    assert (tmp_path / "results" / "SICK-R.json").stat().st_mtime_ns == kept


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_other_libraries_are_scored_anew(
    model: Path, score: Score, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score(model)
    now = fingerprint.versions()
    monkeypatch.setattr(fingerprint, "versions", lambda: now | {"torch": "99"})
    score(model)
    assert printed(capsys).count("scored anew, since it was made of another versions.torch") == 2


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({}, {"column_transform": "log1p"}, "column_transform not given, asked for was log1p"),
        ({"pooling": "mean"}, {}, "pooling mean, asked for was not given"),
        ({}, {"causal": True}, "causal not given, asked for was True"),
        ({}, {"max_length": 16}, "max_length not given, asked for was 16"),
        ({"instructions": True}, {}, "instructions True, asked for was False"),
    ],
)
def test_other_options_are_refused_by_name(
    model: Path, score: Score, first: dict[str, Any], then: dict[str, Any], message: str, tmp_path: Path
) -> None:
    score(model, **first)
    before = content(tmp_path / "results", "STS17")
    with pytest.raises(MghError, match=f"holds results with {message}: name another folder"):
        score(model, **then)
    assert content(tmp_path / "results", "STS17") == before


def test_a_result_of_before_there_were_fingerprints_is_scored_anew(
    model: Path, score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = score(model)
    for name in first:
        path = tmp_path / "results" / f"{name}.json"
        old = json.loads(path.read_text())
        del old["fingerprint"]
        old["tasks"][name] = {"metric": "cosine_spearman", "score": 0.5}
        path.write_text(json.dumps(old))
    capsys.readouterr()
    with pytest.raises(MghError, match="holds results with pooling ata, asked for was mean: name another"):
        score(model, pooling="mean")
    assert content(tmp_path / "results", "STS17")["tasks"]["STS17"]["score"] == 0.5
    path = tmp_path / "results" / "STS17.json"
    saved = path.read_text()
    path.write_text(json.dumps(json.loads(saved) | {"pooling": "mean"}))
    with pytest.raises(
        MghError, match="holds results with pooling mean, and this model has ata: name another"
    ):
        score(model)
    path.write_text(saved)
    capsys.readouterr()
    assert score(model) == first
    assert printed(capsys).count("is scored anew, since it does not say what it was made of") == 2
    assert score(model) == first
    assert "anew" not in printed(capsys)


def test_results_under_other_settings_are_not_put_together(model: Path, score: Score, tmp_path: Path) -> None:
    score(model)
    path = tmp_path / "results" / "SICK-R.json"
    changed = json.loads(path.read_text())
    changed["settings"]["max_length"] = 7
    path.write_text(json.dumps(changed))
    with pytest.raises(MghError, match="do not belong together: settings is"):
        score(model)


@pytest.mark.parametrize("made_of", [[1], "x", {"weights": {}}, {"settings": None}])
def test_a_fingerprint_that_is_none_is_refused(tmp_path: Path, made_of: Any) -> None:
    path = tmp_path / "STS17.json"
    said = {"label": "t", "model": "t", "pooling": "ata", "tasks": {}, "fingerprint": made_of}
    path.write_text(json.dumps(said))
    with pytest.raises(MghError, match=r"STS17\.json is not an evaluation result: its fingerprint"):
        EvaluationResult.read(path)


def test_what_a_result_says_of_itself(model: Path, score: Score, tmp_path: Path) -> None:
    score(model, instructions=True, max_length=128)
    found = content(tmp_path / "results", "SICK-R")
    made_of = found["fingerprint"]
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= made_of["weights"].keys()
    assert made_of["settings"]["max_length"] == 128
    assert made_of["data"]["SICK-R"]["revision"].startswith("sha256:")
    assert made_of["prompts"]["SICK-R"] == found["tasks"]["SICK-R"]["prompts"]
    assert {"mteb", "scikit-learn", "tokenizers", "torch"} <= made_of["versions"].keys()
    paths = [tmp_path / "results" / f"{name}.json" for name in ("STS17", "SICK-R")]
    assert joined({path: EvaluationResult.read(path) for path in paths}).fingerprint["weights"]


def test_held_out_records_are_told_from_others(models: list[Path], records: list[Record]) -> None:
    encoder = Encoder.from_pretrained(models[0], device="cpu")
    both = [
        evaluate_heldout(encoder, chosen, label="t", progress=False) for chosen in (records, records[:-1])
    ]
    first, second = (result.fingerprint["data"]["HeldOutRetrieval"]["revision"] for result in both)
    assert first != second


def test_instructions_that_a_model_leaves_out_are_refused(
    model: Path, score: Score, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(Settings(use_instructions=False), model)
    encoder = Encoder.from_pretrained(model, device="cpu")
    with pytest.raises(MghError, match="was saved with use_instructions: false"):
        evaluate_heldout(encoder, records, label="t", instructions=True, progress=False)
    monkeypatch.setattr(Encoder, "from_pretrained", lambda *_, **__: pytest.fail("a model is loaded"))
    with pytest.raises(MghError, match=r"was saved with use_instructions: false.*leave --instructions out"):
        score(model, instructions=True)


def test_a_prompt_of_the_models_own_is_named(model: Path, score: Score, tmp_path: Path) -> None:
    score(model, "plain")
    write_settings(Settings(prompt="query: "), model)
    files.write_json(
        model / "config_sentence_transformers.json",
        {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
    )
    score(model)
    assert content(tmp_path / "results", "STS17")["settings"]["prompt"] == "query: "
    assert "it has the model's own: “query: ”" in (tmp_path / "results" / "results.md").read_text()
    assert "prompt" not in content(tmp_path / "plain", "STS17")["settings"]
    assert "own" not in (tmp_path / "plain" / "results.md").read_text()
