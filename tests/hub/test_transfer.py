"""Pushing and pulling against a stand-in of the hub: a dry run sends nothing, a commit is all or nothing."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from mgh_ds import cli
from mgh_ds.common.errors import MghError
from mgh_ds.hub.commands import pull_command, push_command
from tests.hub.conftest import tree_of
from tests.hub.stand_in import TOKEN, Hub


def sent(hub: Hub) -> list[str]:
    """What was asked of the hub that brings content to it."""
    return [path for _, path in hub.calls if path.startswith("/lfs/") or "/commit/" in path]


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(
    hub: Hub, export: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (export / "training.log").touch()
    cli.main(["push", str(export), "me/x", "--private"])
    said = capsys.readouterr().out
    assert said.startswith(f"model me/x, private, branch main\nfrom the export {export}\n")
    assert "kB  model.safetensors\n" in said
    assert "left out: training.log (" in said
    assert "nothing was sent: this is a dry run; --yes sends" in said
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cli.main(["push", str(export), "me/x"])
    assert "before that: there is no token: set HF_TOKEN" in capsys.readouterr().out
    assert hub.calls == []


def test_a_model_is_pushed_in_one_commit_and_pulled_as_it_was(
    hub: Hub, export: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(export), "me/x", "--yes", "--message", "first"])
    repository = hub.repositories["models", "me/x"]
    assert repository.messages == ["initial commit", "first"]
    assert {
        path: content for path, content in hub.tree("me/x").items() if path != ".gitattributes"
    } == tree_of(export)
    cli.main(["pull", "me/x", str(tmp_path / "pulled")])
    assert tree_of(tmp_path / "pulled") == tree_of(export)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    out, err = capfd.readouterr()
    assert TOKEN not in out + err
    assert f"mgh-ds pull me/x@{repository.branches['main']} OUT" in out


def test_pushed_again_only_what_is_new_is_sent(
    hub: Hub, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push_command(export, "me/x", yes=True)
    first = hub.repositories["models", "me/x"].branches["main"]
    hub.calls.clear()
    push_command(export, "me/x", yes=True)
    assert sent(hub) == []
    assert f"nothing new: me/x has all of this, at commit {first}" in capsys.readouterr().out
    (export / "README.md").write_text("---\ntags: [other]\n---\n# Another\n")
    push_command(export, "me/x", yes=True)
    assert sent(hub) == ["/api/models/me/x/commit/main"]
    assert hub.tree("me/x")["README.md"].endswith(b"# Another\n")


def test_files_of_an_earlier_push_go_and_others_stay(
    hub: Hub, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({}, export / "model-00001-of-00001.safetensors")
    push_command(export, "me/x", yes=True)
    repository = hub.repositories["models", "me/x"]
    repository.commit("main", hub.tree("me/x") | {"drawing.png": b"p", "run/config.yaml": b"{}"}, "by hand")
    (export / "model-00001-of-00001.safetensors").unlink()
    assert "removed there" not in capsys.readouterr().out
    push_command(export, "me/x", yes=True)
    assert "removed there: model-00001-of-00001.safetensors\npushed as" in capsys.readouterr().out
    assert repository.messages[3:] == [repository.messages[1]], "one commit"
    assert set(hub.tree("me/x")) == {*tree_of(export), ".gitattributes", "drawing.png", "run/config.yaml"}


def test_a_branch_is_made_and_main_stays(hub: Hub, export: Path, tmp_path: Path) -> None:
    push_command(export, "me/x", revision="trial", yes=True)
    assert set(hub.tree("me/x")) == {".gitattributes"}
    pull_command("me/x@trial", tmp_path / "pulled")
    assert tree_of(tmp_path / "pulled") == tree_of(export)
    with pytest.raises(MghError, match="knows no such repository or revision"):
        pull_command("me/x@nonesuch", tmp_path / "other")
    with pytest.raises(MghError, match="me/x holds no file that mgh-ds pushes"):
        pull_command("me/x", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_data_set_is_pushed_with_a_card_and_pulled(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_command(store, "me/x", private=True, yes=True)
    assert hub.repositories["datasets", "me/x"].private
    assert b"level 4" in hub.tree("me/x", "datasets")["README.md"]
    pull_command("datasets/me/x", tmp_path / "pulled")
    pulled = tree_of(tmp_path / "pulled")
    assert pulled.pop("README.md").startswith(b"---\nlicense: unknown\n")
    assert pulled == tree_of(store)


@pytest.mark.parametrize("where", ["/lfs/", "/commit/", "/preupload/", "/validate-yaml"])
def test_a_push_that_fails_leaves_the_repository_as_it_was(where: str, hub: Hub, export: Path) -> None:
    push_command(export, "me/x", yes=True)
    before = dict(hub.tree("me/x"))
    save_file({}, export / "model.safetensors")
    (export / "config.json").write_text('{"changed": true}')
    hub.fault = lambda _, path: 400 if where in path else None
    with pytest.raises(MghError, match=r"me/x was not pushed: .*\. Run the same command again"):
        push_command(export, "me/x", yes=True)
    assert hub.tree("me/x") == before
    hub.fault = lambda _, __: None
    push_command(export, "me/x", yes=True)
    assert hub.tree("me/x")["config.json"] == b'{"changed": true}'


def test_two_pushes_at_once_are_not_mixed(hub: Hub, export: Path) -> None:
    push_command(export, "me/x", yes=True)
    repository = hub.repositories["models", "me/x"]

    def meanwhile(_: str, path: str) -> None:
        if "/preupload/" in path:
            repository.commit("main", {"config.json": b"theirs"}, "theirs")

    hub.fault = meanwhile
    (export / "config.json").write_text('{"mine": true}')
    with pytest.raises(MghError, match="somebody else has changed the repository meanwhile"):
        push_command(export, "me/x", yes=True)
    assert hub.tree("me/x") == {"config.json": b"theirs"}


def test_what_should_be_private_is_not_sent_to_a_public_repository(hub: Hub, export: Path) -> None:
    push_command(export, "me/x", yes=True)
    hub.calls.clear()
    with pytest.raises(MghError, match="me/x exists and is public"):
        push_command(export, "me/x", private=True, yes=True)
    assert sent(hub) == []


def test_a_token_that_is_missing_or_refused_is_said(
    hub: Hub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(MghError, match=r"does not accept the token \(HF_TOKEN\)") as refused:
        push_command(export, "me/x", yes=True)
    assert "hf_another" not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MghError, match="there is no token: set HF_TOKEN to one with write access"):
        push_command(export, "me/x", yes=True)
    assert hub.repositories == {}


def test_a_hub_that_cannot_be_reached_or_may_not_be_is_said(
    hub: Hub, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:" + "geheim@127.0.0.1:9")
    for call in (
        lambda: push_command(export, "me/x", yes=True),
        lambda: pull_command("me/x", tmp_path / "pulled"),
    ):
        with pytest.raises(
            MghError, match=r"hub, http://127\.0\.0\.1:9, cannot be reached .* copy the folder itself"
        ):
            call()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for call in (
        lambda: push_command(export, "me/x", yes=True),
        lambda: pull_command("me/x", tmp_path / "pulled"),
    ):
        with pytest.raises(MghError, match=r"HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: unset it"):
            call()
    assert not (tmp_path / "pulled").exists()
    assert hub.calls == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_changed_on_its_way_is_refused(name: str, hub: Hub, export: Path, tmp_path: Path) -> None:
    push_command(export, "me/x", yes=True)
    hub.served = lambda path, content: content[:-1] + b"?" if path == name else content
    with pytest.raises(MghError, match=rf"{name} is damaged: its checksum is \w+, the hub says \w+"):
        pull_command("me/x", tmp_path / "pulled")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_folder_that_is_there_is_not_pulled_over(hub: Hub, export: Path) -> None:
    before = tree_of(export)
    with pytest.raises(MghError, match="exists already"):
        pull_command("me/x", export)
    assert tree_of(export) == before
    assert hub.calls == []


@pytest.mark.parametrize("name", ["a/b/c", "me/x y", "-x", "datasets/me/x"])
def test_names_that_no_repository_can_have_are_refused(name: str, export: Path) -> None:
    with pytest.raises(MghError, match="is no repository's name, which is OWNER/NAME"):
        push_command(export, name)


def test_a_revision_that_is_not_named_is_not_taken_for_the_newest(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(MghError, match="me/x@ names no revision"):
        pull_command("me/x@", tmp_path / "pulled")
    assert hub.calls == []
