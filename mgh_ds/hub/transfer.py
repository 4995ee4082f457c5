"""To the hub in one commit, and from it by checksum; what goes wrong becomes a line that says what to do.

The token is the hub client's own: HF_TOKEN, or what `hf auth login` has kept. It goes into the requests and
nowhere else. HF_ENDPOINT names another hub than the public one.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling
from huggingface_hub.utils import validate_repo_id

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.hub.contents import Source
from mgh_ds.hub.layout import Kind

LOCAL = (
    "Without a hub, copy the folder itself (a shared disk, rsync): whatever takes a name takes a folder too"
)


class Sent(NamedTuple):
    """What came of a push."""

    repo: str  # with its owner
    commit: str
    changed: bool  # false where the repository had all of it
    removed: list[str]  # files that were there


def check_repo(repo: str) -> None:
    """Raises MghError for what cannot be a repository's name."""
    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise MghError(f"{repo!r} is no repository's name, which is OWNER/NAME: {error}") from None


def token_problem() -> str | None:
    """What to do about a token that is missing; None if there is one."""
    if get_token():
        return None
    return "there is no token: set HF_TOKEN to one with write access, or log in with `hf auth login`"


def send(
    repo: str,
    kind: Kind,
    sources: Mapping[str, Source],
    replaced: Callable[[str], bool],
    *,
    message: str,
    revision: str | None = None,
    private: bool = False,
) -> Sent:
    """Makes `sources` the files of a repository, which is made if need be, in one commit to the branch
    `revision`, None: main. Files there that are none of them and that `replaced` names go in the same commit.

    Files that the hub has already are not sent again. Raises MghError, and the repository is as it was, if
    there is no token, if the hub cannot be reached or refuses, if somebody else commits meanwhile, and if the
    repository should be private and is not.
    """
    check_online()
    if problem := token_problem():
        raise MghError(problem)
    api = HfApi(library_name="mgh-ds")
    with _explained(
        f"{repo} was not pushed", "Run the same command again: what has arrived is not sent twice"
    ):
        made = api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True).repo_id
        if private and not _info(api, made, kind).private:
            raise MghError(f"{made} exists and is public: make it private on the hub, or take another name")
        if revision is not None:
            api.create_branch(made, branch=revision, repo_type=kind, exist_ok=True)
        before = _info(api, made, kind, revision)
        there = {sibling.rfilename for sibling in before.siblings or ()}
        removed = [path for path in sorted(there - sources.keys()) if replaced(path)]
        commit = api.create_commit(
            made,
            [
                *(CommitOperationAdd(path, source) for path, source in sources.items()),
                *(CommitOperationDelete(path) for path in removed),
            ],
            commit_message=message,
            repo_type=kind,
            revision=revision,
            parent_commit=before.sha,  # else two pushes at once would mix their files
        )
    return Sent(made, commit.oid, commit.oid != before.sha, removed)


class Fetched(NamedTuple):
    """What came of a pull."""

    commit: str
    paths: list[str]  # in the repository


def fetch(
    repo: str, kind: Kind, revision: str | None, wanted: Callable[[str], bool], folder: Path
) -> Fetched:
    """Fetches the files of a revision (branch, tag or commit; None: main) that `wanted` names into `folder`,
    each checked by the hub's checksum of it.

    Raises MghError if there are none, if the hub cannot be reached or refuses, and for a file that is not
    what the hub says.
    """
    check_online()
    api = HfApi(library_name="mgh-ds")
    with _explained(f"{repo} was not pulled", "Nothing was left behind; run the same command again"):
        info = _info(api, repo, kind, revision, checksums=True)
        assert info.sha is not None
        siblings = [sibling for sibling in info.siblings or () if wanted(sibling.rfilename)]
        if not siblings:
            raise MghError(
                f"{repo} holds no file that mgh-ds pushes: {kind}s that it trained or wrote can be pulled"
            )
        for sibling in siblings:
            path = api.hf_hub_download(
                repo, sibling.rfilename, repo_type=kind, revision=info.sha, local_dir=folder
            )
            _check(Path(path), sibling)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes
    return Fetched(info.sha, [sibling.rfilename for sibling in siblings])


def _info(
    api: HfApi, repo: str, kind: Kind, revision: str | None = None, *, checksums: bool = False
) -> ModelInfo | DatasetInfo:
    """What the hub says of a revision, with its files' names."""
    ask = api.dataset_info if kind == "dataset" else api.model_info
    return ask(repo, revision=revision, files_metadata=checksums)


def _check(path: Path, sibling: RepoSibling) -> None:
    """Large files are known by the SHA-256 of their content, the others by git's SHA-1 of a blob."""
    if sibling.lfs is not None:
        expected: str | None = sibling.lfs.sha256
        found = files.sha256(path)
    else:
        content = path.read_bytes()
        expected = sibling.blob_id
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != expected:
        raise MghError(
            f"{sibling.rfilename} is damaged: its checksum is {found}, the hub says {expected}. Pull again"
        )


def check_online() -> None:
    """Raises MghError if the hub's client was told to stay offline."""
    if constants.is_offline_mode():
        raise MghError(f"HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: unset it to reach the hub. {LOCAL}")


@contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise MghError(f"{what}: {_reason(error)}. {advice}") from error


def _endpoint() -> str:
    """The hub's address, without a name and password in it."""
    return re.sub(r"//[^/]*@", "//", constants.ENDPOINT)


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HTTPError):
        cause = cause.__cause__  # what uploads and downloads wrap
    if cause is None:
        return " ".join(str(error).split()) or type(error).__name__
    if not isinstance(cause, HfHubHTTPError):
        return f"the hub, {_endpoint()}, cannot be reached ({type(cause).__name__}). {LOCAL}"
    status, said = cause.response.status_code, cause.server_message
    reasons = {
        401: "the hub knows no such repository, or does not accept the token (HF_TOKEN)",
        403: "the token may not do this: it needs write access to the owner's repositories",
        404: "the hub knows no such repository or revision; a private one asks for a token (HF_TOKEN)",
        409: "somebody else has changed the repository meanwhile",
        412: "somebody else has changed the repository meanwhile",
    }
    words = reasons.get(status, f"the hub answered with status {status}")
    return f"{words}: {' '.join(said.split())}" if said else words
