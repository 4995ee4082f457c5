"""`mgh-ds push | pull`: what they print, and when they fail."""

import argparse
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mgh_ds import __version__

if TYPE_CHECKING:
    from mgh_ds.training.config import RunConfig


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds push`."""
    parser.description = (
        "Says what would be sent; --yes sends it, in one commit. The token is that of the hub's client: "
        "HF_TOKEN, or `hf auth login`; HF_ENDPOINT names another hub."
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="an export, a run, a store, or JSONL records"
    )
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME; made if need be")
    parser.add_argument("--private", action="store_true", help="seen by its owner alone (default: public)")
    parser.add_argument("--revision", metavar="BRANCH", help="made if need be (default: main)")
    parser.add_argument("--message", metavar="TEXT", help="of the commit (default: what is pushed)")
    parser.add_argument(
        "--checkpoints",
        action="store_true",
        help="of a run, also what it is gone on with elsewhere: its newest checkpoint, and the best",
    )
    parser.add_argument(
        "--license", metavar="KEY", help="for a data card that is made, such as cc-by-4.0 (default: unknown)"
    )
    parser.add_argument("--yes", action="store_true", help="send it; without it nothing is sent")
    parser.set_defaults(call=push_command)


def push_command(
    folder: Path,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    checkpoints: bool = False,
    license: str | None = None,
    yes: bool = False,
) -> None:
    """Prints which files of `folder` make up the repository `repo`, and with `yes` sends them, in one commit.

    Raises MghError for what cannot be pushed, a secret in a card or a configuration, a missing token, and
    whatever the hub refuses.
    """
    from huggingface_hub import get_token

    from mgh_ds.hub import transfer
    from mgh_ds.hub.contents import check_secrets, contents_of, is_run
    from mgh_ds.hub.layout import is_any_of
    from mgh_ds.training.run_folder import RunFolder

    transfer.check_repo(repo)
    run = RunFolder(folder)
    if checkpoints and is_run(folder):
        run.hold()  # a job that trains in it would change files while they are sent
    contents = contents_of(folder, checkpoints=checkpoints, license=license)
    check_secrets(contents.sources, get_token())

    print(f"{contents.kind} {repo}, {'private' if private else 'public'}, branch {revision or 'main'}")
    print(f"from {contents.words}")
    sizes = {
        path: len(source) if isinstance(source, bytes) else source.stat().st_size
        for path, source in contents.sources.items()
    }
    for path, size in sorted(sizes.items()):
        made = "  (made here)" if isinstance(contents.sources[path], bytes) else ""
        print(f"{_size(size):>12}  {path}{made}")
    print(f"{_size(sum(sizes.values())):>12}  in {len(sizes)} files")
    for path, reason in contents.left_out.items():
        print(f"left out: {path} ({reason})")
    if not yes:
        print("nothing was sent: this is a dry run; --yes sends these files in one commit")
        if problem := transfer.token_problem():
            print(f"before that: {problem}")
        return
    sent = transfer.send(
        repo,
        contents.kind,
        contents.sources,
        lambda path: is_any_of(path, contents.replaces),
        message=message or f"Pushed by mgh-ds {__version__}",
        revision=revision,
        private=private,
    )
    for path in sent.removed:
        print(f"removed there: {path}")
    if sent.changed:
        print(f"pushed as commit {sent.commit}")
    else:
        print(f"nothing new: {sent.repo} has all of this, at commit {sent.commit}")
    name = sent.repo if contents.kind == "model" else f"datasets/{sent.repo}"
    print(f"fetch it with: mgh-ds pull {name}@{sent.commit} OUT")


def add_pull_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `mgh-ds pull`."""
    parser.description = (
        "Fetches what `mgh-ds push` sent; a run that was pushed with --checkpoints goes on there."
    )
    parser.add_argument(
        "repo",
        metavar="REPO[@REVISION]",
        help="OWNER/NAME, of a data set datasets/OWNER/NAME; a branch, tag or commit (default: main)",
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="a new folder")
    parser.set_defaults(call=pull_command)


def pull_command(repo: str, output: Path) -> None:
    """Fetches a repository's revision into the new folder `output`, each file checked by its checksum.

    Raises MghError if `output` exists, and for what the hub has not or refuses; nothing is left behind then.
    """
    from mgh_ds.common import files
    from mgh_ds.common.config import load_config
    from mgh_ds.common.errors import MghError
    from mgh_ds.hub import transfer
    from mgh_ds.hub.layout import RUN, Kind, is_ours, places
    from mgh_ds.training.config import RunConfig

    named, at, revision = repo.partition("@")
    if at and not revision:
        raise MghError(f"{repo} names no revision: say which after the @, or leave it out")
    kind: Kind = "dataset" if named.startswith("datasets/") else "model"
    name = named.removeprefix("datasets/")
    transfer.check_repo(name)
    with files.new_folder(output) as folder:
        arrived = folder / ".arrived"
        found = transfer.fetch(name, kind, revision or None, lambda path: is_ours(path, kind), arrived)
        of_run = any(path.startswith(RUN) for path in found.paths)
        for path, name_here in places(found.paths).items():
            place = folder / name_here
            place.parent.mkdir(parents=True, exist_ok=True)
            (arrived / path).rename(place)
        shutil.rmtree(arrived)
        config = load_config(RunConfig, ["--config", str(folder / "config.yaml")]) if of_run else None
    print(f"{name} at commit {found.commit}: {len(found.paths)} files in {output}")
    if config is not None:
        _say_how_to_go_on(output, config)


def _say_how_to_go_on(run: Path, config: "RunConfig") -> None:
    """The command that goes on with a run, and what else has to be on this machine."""
    from mgh_ds.records import bundled

    words = ["mgh-ds", "train", "--config", str(run / "config.yaml"), "--folder", str(run.parent)]
    print(f"it goes on with: {shlex.join([*words, '--name', run.name])}")
    data = [*config.data.paths, *([config.data.held_out] if config.data.held_out else [])]
    lacking = [path for path in data if not bundled.resolve(path).exists()]
    guide = [config.training.guide.name_or_path] if config.training.guide else []
    needs = ", ".join([config.model.name_or_path, *config.model.adapters, *guide, *data])
    print(f"the same models and records are needed here, and are checked at the start: {needs}")
    if lacking:
        print(f"not here: {', '.join(lacking)} (--data.train and --data.held_out name other places)")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
