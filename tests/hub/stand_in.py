"""A local stand-in for the hub: the part of its API that pushing and pulling use, all in memory.

It keeps what it was asked, wants a token for every change, takes large files by LFS, and applies a commit as
a whole or not at all. `fault` may answer any call with a status of its own.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "s3cretOfTheStandIn" * 2
LARGE = (".safetensors", ".arrow")
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|preupload|commit|branch)/([^/]+))?")
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

Answer = tuple[int, Any]
Tree = dict[str, bytes]


@dataclass
class Repository:
    private: bool
    trees: dict[str, Tree] = field(default_factory=dict)  # by commit
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, tree: Tree, message: str) -> str:
        self.messages.append(message)
        sha = hashlib.sha1(f"{id(self)} {len(self.messages)}".encode()).hexdigest()
        self.trees[sha] = tree
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.trees else None


@dataclass
class Hub:
    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    calls: list[tuple[str, str]] = field(default_factory=list)
    fault: Callable[[str, str], int | None] = lambda _, __: None
    served: Callable[[str, bytes], bytes] = lambda _, content: content  # what a download gets of a file

    def tree(self, name: str, kind: str = "models", revision: str = "main") -> Tree:
        repository = self.repositories[kind, name]
        return repository.trees[repository.branches[revision]]

    def answer(self, method: str, target: str, body: bytes, token: str | None) -> Answer:
        path = unquote(urlsplit(target).path)
        self.calls.append((method, path))
        if (status := self.fault(method, path)) is not None:
            return status, {"error": "as the test asked"}
        if method in ("POST", "PUT") and token != TOKEN and not path.startswith("/lfs/"):
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---\n")[1]
            return (200, {}) if isinstance(yaml.safe_load(head), dict) else (400, {"errors": []})
        if path.startswith("/lfs/"):
            self.blobs[path.removeprefix("/lfs/")] = body
            return 200, {}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"objects": [self._upload(each) for each in json.loads(body)["objects"]]}
        if found := API.fullmatch(path):
            kind, name, what, revision = found.groups()
            repository = self.repositories.get((kind, name))
            if repository is None:
                return 404, {"error": "Repository not found"}
            call = {"preupload": _preupload, "commit": self._commit, "branch": _branch}.get(what, _info)
            return call(repository, unquote(revision or "main"), body)
        return 404, {"error": f"{path} is not stood in for"}

    def file(self, target: str) -> tuple[str, bytes] | None:
        """A commit and a file's content in it."""
        found = RESOLVE.fullmatch(unquote(urlsplit(target).path))
        if found is None:
            return None
        repository = self.repositories.get(("datasets" if found[1] else "models", found[2]))
        sha = repository.sha(found[3]) if repository else None
        if repository is None or sha is None or found[4] not in repository.trees[sha]:
            return None
        return sha, self.served(found[4], repository.trees[sha][found[4]])

    def _create(self, asked: dict[str, Any]) -> Answer:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        kind = f"{asked.get('type', 'model')}s"
        url = {"url": f"{self.url}/{'datasets/' if kind == 'datasets' else ''}{name}"}
        if (kind, name) in self.repositories:
            return 409, url | {"error": "You already created this repo"}
        repository = Repository(asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.repositories[kind, name] = repository
        return 200, url

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.blobs:
            return asked
        return asked | {"actions": {"upload": {"href": f"{self.url}/lfs/{asked['oid']}"}}}

    def _commit(self, repository: Repository, branch: str, body: bytes) -> Answer:
        header, *operations = map(json.loads, body.splitlines())
        if header["value"].get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
            return 412, {"error": "A commit has happened since"}
        tree = dict(repository.trees[repository.branches[branch]])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                tree[value["path"]] = self.blobs[value["oid"]]
            else:
                del tree[value["path"]]
        sha = repository.commit(branch, tree, header["value"]["summary"])
        return 200, {"commitUrl": f"{self.url}/me/x/commit/{sha}", "commitOid": sha}


def _preupload(repository: Repository, branch: str, body: bytes) -> Answer:
    tree = repository.trees[repository.branches[branch]]
    found = []
    for asked in json.loads(body)["files"]:
        path = asked["path"]
        mode = "lfs" if path.endswith(LARGE) else "regular"
        oid = (_sha256 if mode == "lfs" else _blob)(tree[path]) if path in tree else None
        found.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return 200, {"files": found}


def _branch(repository: Repository, branch: str, _: bytes) -> Answer:
    if branch in repository.branches:
        return 409, {"error": "Reference already exists"}
    repository.branches[branch] = repository.branches["main"]
    return 200, {}


def _info(repository: Repository, revision: str, _: bytes) -> Answer:
    if (sha := repository.sha(revision)) is None:
        return 404, {"error": "Invalid rev id"}
    siblings = []
    for path, content in repository.trees[sha].items():
        sibling: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": _blob(content)}
        if path.endswith(LARGE):
            sibling["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
        siblings.append(sibling)
    return 200, {"id": "me/x", "sha": sha, "private": repository.private, "siblings": siblings}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _call(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
            if self.command in ("GET", "HEAD") and "/resolve/" in self.path:
                self._file()
                return
            status, said = hub.answer(self.command, self.path, body, token)
            self._send(status, json.dumps(said).encode(), {"content-type": "application/json"})

        do_GET = do_HEAD = do_POST = do_PUT = _call

        def _file(self) -> None:
            found = hub.file(self.path)
            if found is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            commit, content = found
            hub.calls.append((self.command, unquote(self.path)))
            self._send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{_blob(content)}"'})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class HttpServer(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    http = HttpServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield hub
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
