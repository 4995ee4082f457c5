"""What a folder is recognised as, which of its files are pushed, and what is refused."""

import re
from pathlib import Path

import pytest
import yaml

from mgh_ds.common.errors import MghError
from mgh_ds.hub.card import data_card
from mgh_ds.hub.contents import SECRETS, check_secrets, contents_of
from mgh_ds.hub.layout import MODEL_FILES, is_any_of, is_ours
from mgh_ds.records.stats import stats

# One of each, put together here so that no file of the project looks as if it held one.
EXAMPLES = {
    "a Hugging Face token": "hf_" + "aB3" * 12,
    "an API key": "sk-" + "proj-" + "x7Q" * 8,
    "a GitHub token": "ghp_" + "Zz9" * 12,
    "an AWS key": "AKIA" + "Q3" * 8,
    "a Google API key": "AIza" + "k5_T-" * 7,
    "a Slack token": "xoxb-" + "123456789012",
    "a private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "a password in an address": "https://somebody:" + "opensesame@example.org/v1",
}


def test_of_an_export_only_known_files_are_pushed_and_no_pickle(export: Path) -> None:
    for name in ("pytorch_model.bin", "notes.txt", ".env", "trainer.log"):
        (export / name).write_text("x")
    (export / "cache").mkdir()
    (export / "cache" / "model.safetensors").write_text("x")
    (export / "1_Pooling").mkdir()
    (export / "1_Pooling" / "config.json").write_text("{}")
    found = contents_of(export)
    assert found.kind == "model"
    assert set(found.sources) == {
        "README.md",
        "config.json",
        "mgh_ds.json",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
        "1_Pooling/config.json",
    }
    assert set(found.left_out) == {"pytorch_model.bin", "notes.txt", ".env", "trainer.log", "cache/"}
    assert found.left_out["pytorch_model.bin"] == "weights are pushed as safetensors alone"


def test_patterns_match_part_by_part() -> None:
    for path in ("1_Pooling/config.json", "onnx/model.onnx", "onnx/model_qint8.onnx", "onnx/model.onnx.data"):
        assert is_any_of(path, MODEL_FILES)
    for path in (
        "1_x/../config.json",
        "1_x/y/config.json",
        "../config.json",
        "/config.json",
        ".env",
        "model.bin",
    ):
        assert not is_any_of(path, MODEL_FILES), path
    assert is_ours("run/checkpoints/step-000002/weights.safetensors", "model")
    assert not is_ours("run/../weights.safetensors", "model")
    assert not is_ours("part-00000.arrow", "model")


def test_a_store_gets_a_card_that_counts_by_level_and_task(store: Path) -> None:
    found = contents_of(store, license="cc-by-4.0")
    assert (found.kind, set(found.sources)) == ("dataset", {"README.md", "manifest.json", "part-00000.arrow"})
    card = found.sources["README.md"]
    assert isinstance(card, bytes)
    _, head, body = card.decode().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    assert yaml.safe_load(head)["language"] == ["en"]
    assert yaml.safe_load(head)["viewer"] is False
    assert "5 records" in body
    assert re.search(r"\| level 4 \| \d+ \| 5 \|", body)
    assert re.search(r"\| short-\w+ \| 5 \|", body)
    assert "## Origin" in body
    unknown = contents_of(store).sources["README.md"]
    assert isinstance(unknown, bytes)
    assert b"license: unknown" in unknown
    assert b"The licence is not known" in unknown


def test_a_card_that_is_there_is_the_one_that_is_pushed(store: Path) -> None:
    (store / "README.md").write_text("# Mine\n")
    assert contents_of(store).sources["README.md"] == store / "README.md"
    with pytest.raises(MghError, match="--license is for a data card that is made here"):
        contents_of(store, license="mit")


def test_jsonl_records_are_a_data_set(tmp_path: Path) -> None:
    lines = Path("mgh_ds/records/sample/train.jsonl").read_text(encoding="utf-8").splitlines()
    for name, part in {"train": lines[:3], "held-out": lines[3:5]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    found = contents_of(tmp_path)
    assert set(found.sources) == {"README.md", "train.jsonl", "held-out.jsonl"}
    card = found.sources["README.md"]
    assert isinstance(card, bytes)
    (configuration,) = yaml.safe_load(card.decode().split("---\n")[1])["configs"]
    assert configuration["data_files"] == [
        {"split": "held_out", "path": "held-out.jsonl"},
        {"split": "train", "path": "train.jsonl"},
    ]
    both = data_card("a", [stats(tmp_path / "train.jsonl")] * 2, None, jsonl=["a-1.jsonl", "a_1.jsonl"])
    (configuration,) = yaml.safe_load(both.split("---\n")[1])["configs"]
    assert configuration["data_files"] == [{"split": "a_1", "path": ["a-1.jsonl", "a_1.jsonl"]}]
    assert set(contents_of(tmp_path / "train.jsonl").sources) == {"README.md", "train.jsonl"}
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"query": "half a record"}\n')
    with pytest.raises(MghError, match=r"train\.jsonl: 1 of its rows are no records\. See which with"):
        contents_of(tmp_path)


def test_what_is_none_of_these_is_refused_with_what_it_lacks(
    tmp_path: Path, export: Path, store: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MghError, match=r"no export \(no config\.json\), no run .* no store \(no manifest"):
        contents_of(tmp_path / "empty")
    with pytest.raises(MghError, match="does not exist"):
        contents_of(tmp_path / "nowhere")
    with pytest.raises(MghError, match="--checkpoints is for run folders"):
        contents_of(export, checkpoints=True)
    (export / "model.safetensors").unlink()
    with pytest.raises(MghError, match=r"is no whole export: model\.safetensors is missing"):
        contents_of(export)
    part = store / "part-00000.arrow"
    content = part.read_bytes()
    part.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    with pytest.raises(MghError, match="is damaged"):
        contents_of(store)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    (run / "metrics.jsonl").touch()
    with pytest.raises(MghError, match=r"has no exported model yet: mgh-ds export .* --checkpoints"):
        contents_of(run)


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_refused_and_not_repeated(what: str, export: Path) -> None:
    with (export / "README.md").open("a") as file:
        file.write(f"key: {EXAMPLES[what]}\n")
    with pytest.raises(MghError) as refused:
        check_secrets(contents_of(export).sources, None)
    assert f"README.md, line 5, seems to hold {what}" in str(refused.value)
    assert EXAMPLES[what] not in str(refused.value)


def test_the_token_in_use_is_found_whatever_it_looks_like(export: Path) -> None:
    check_secrets(contents_of(export).sources, "correct horse")
    (export / "config.json").write_text('{"note": "correct horse"}')
    with pytest.raises(MghError, match=r"config\.json, line 1, seems to hold your token"):
        check_secrets(contents_of(export).sources, "correct horse")


def test_held_out_texts_are_searched_for_the_token_alone(tmp_path: Path) -> None:
    text = tmp_path / "before.json"
    text.write_text(EXAMPLES["a password in an address"])
    for name in ("run/evaluation/before.json", "run/retrieved_weights.json", "run/token_weights.json"):
        check_secrets({name: text}, "correct horse")
        with pytest.raises(MghError, match="your token"):
            check_secrets({name: text}, "opensesame")
    with pytest.raises(MghError, match="a password in an address"):
        check_secrets({"run/run.json": text}, None)
