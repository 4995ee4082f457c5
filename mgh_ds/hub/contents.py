"""What of a folder is pushed: it is an export, a run, a store or records, or is refused."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.hub import card
from mgh_ds.hub.layout import (
    CARD,
    CARDS,
    EXPORT,
    HELD_OUT_TEXTS,
    MODEL_FILES,
    RECORD_FILES,
    RUN,
    RUN_FILES,
    STORE_FILES,
    Kind,
    is_any_of,
)
from mgh_ds.model.weights import missing_file
from mgh_ds.records.stats import stats
from mgh_ds.records.store import Store, is_store
from mgh_ds.training.config import RunConfig
from mgh_ds.training.run_folder import RunFolder

Source = Path | bytes
"""A file, or the content of one that is made here."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle", ".joblib")

# Of what people paste into cards and configurations by mistake.
SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"\b(?:gh[opusr]_[A-Za-z0-9]{36,}|github_pat_\w{22,})",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google API key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abeprs]-[\w-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']+@",
}
DESCRIPTIONS = (".md", ".yaml", ".json", ".jinja")


@dataclass(frozen=True)
class Contents:
    """What would be pushed.

    Attributes:
        kind: of repository.
        words: what the folder was found to be.
        sources: by path in the repository.
        left_out: by path in the folder, the reason.
        replaces: patterns of the files that this push stands for: those in the repository that are none of
            `sources` are removed from it in the same commit.
    """

    kind: Kind
    words: str
    sources: Mapping[str, Source]
    left_out: Mapping[str, str]
    replaces: Sequence[str]


def contents_of(path: Path, *, checkpoints: bool = False, license: str | None = None) -> Contents:
    """What of `path` is pushed; of a run, with `checkpoints`, also what it is gone on with. `license` is for
    a data set's card, where one is made.

    Raises MghError for a folder that is none of the kinds, not whole, or damaged, and for a secret in it.
    """
    if is_run(path):
        found = _run(path, checkpoints)
    elif checkpoints:
        raise MghError(f"--checkpoints is for run folders: {path} has no config.yaml and metrics.jsonl")
    elif (path / "config.json").is_file():
        found = _export(path)
    elif is_store(path):
        found = _store(path, license)
    elif jsonl := _jsonl(path):
        found = _records(path, jsonl, license)
    else:
        raise MghError(
            f"{path} cannot be pushed: it is no export (no config.json), no run (no config.yaml and "
            "metrics.jsonl), no store (no manifest.json), and has no .jsonl files of records"
            if path.exists()
            else f"{path} does not exist: check the path"
        )
    if license is not None and (found.kind == "model" or isinstance(found.sources[CARD], Path)):
        raise MghError(f"--license is for a data card that is made here: say it in {path / CARD}")
    return found


def is_run(path: Path) -> bool:
    """Whether a folder is a run's. The plan of a synthesis has a config.yaml too."""
    return (path / "config.yaml").is_file() and (path / "metrics.jsonl").is_file()


def _export(path: Path) -> Contents:
    if missing := missing_file(path):
        raise MghError(f"{path} is no whole export: {missing} is missing. Export the run again")
    sources = _files(path, MODEL_FILES)
    sources.setdefault(CARD, card.model_card(path.name).encode())
    return Contents("model", f"the export {path}", sources, _left_out(path, sources), MODEL_FILES)


def _run(path: Path, checkpoints: bool) -> Contents:
    exported = (path / EXPORT / "config.json").is_file()
    if not exported and not checkpoints:
        raise MghError(
            f"{path} has no exported model yet: mgh-ds export {path} {path / EXPORT}, or push what the run "
            "is gone on with: --checkpoints"
        )
    model = _export(path / EXPORT) if exported else None
    sources = dict(model.sources) if model else {}
    words = f"the run {path}: its export" if model else f"the run {path}"
    if checkpoints:
        config = load_config(RunConfig, ["--config", str(path / "config.yaml")])
        steps, wanted = _checkpoints(RunFolder(path), config)
        sources |= {
            RUN + name: source
            for name, source in _files(path, RUN_FILES).items()
            if not name.startswith("checkpoints/") or name.split("/")[1] in wanted
        }
        words += f"{' and' if model else ':'} what it is gone on with, {steps}"
        sources.setdefault(CARD, card.run_card(config.name, steps).encode())
    replaces = [*MODEL_FILES] if model else [CARD]
    replaces += [RUN + pattern for pattern in RUN_FILES] if checkpoints else []
    left_out = _left_out(path, sources, "" if checkpoints else "--checkpoints sends what a run needs")
    return Contents("model", words, sources, left_out, replaces)


def _checkpoints(folder: RunFolder, config: RunConfig) -> tuple[str, set[str]]:
    """The newest checkpoint of a run, and the best where the recipe names a metric: in words, and their
    folders' names. Raises MghError if there is none that is whole."""
    from mgh_ds.training import checkpoint
    from mgh_ds.training.evaluations import best_step, evaluation_lines

    newest = checkpoint.newest(folder.checkpoints)
    if newest is None:
        raise MghError(f"{folder.path} has no complete checkpoint to go on from yet")
    step = int(newest[1]["step"])
    words, wanted = f"step {step} of {config.training.steps}", {newest[0].name}
    best = best_step(evaluation_lines(folder), config.evaluation.metric)
    if best is not None and best != step:
        wanted.add(checkpoint.of_step(folder.checkpoints, best)[0].name)
        words += f", and the best, of step {best}"
    return words, wanted


def _store(path: Path, license: str | None) -> Contents:
    store = Store.open(path)
    store.verify()
    parts = {part.file for part in store.manifest.parts}
    found = _files(path, STORE_FILES)
    sources = {
        name: source for name, source in found.items() if name in parts or not name.startswith("part-")
    }
    if CARD not in sources:
        made = card.data_card(path.name, [stats(path)], license)
        sources[CARD] = made.encode()
    replaces = (*STORE_FILES, *RECORD_FILES)
    return Contents("dataset", f"the store {path}", sources, _left_out(path, sources), replaces)


def _jsonl(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if is_any_of(path.name, ("*.jsonl",)) else []
    return [file for file in sorted(path.glob("*.jsonl")) if is_any_of(file.name, ("*.jsonl",))]


def _records(path: Path, jsonl: Sequence[Path], license: str | None) -> Contents:
    counted = [(file, stats(file)) for file in jsonl]
    for file, found in counted:
        if found["rejected"]:
            raise MghError(
                f"{file}: {found['rejected']:,} of its rows are no records. See which with: mgh-ds data "
                f"validate {file}"
            )
    sources: dict[str, Source] = {file.name: file for file in jsonl}
    sources |= _files(path, CARDS) if path.is_dir() else {}
    if CARD not in sources:
        names, found_in = [file.name for file, _ in counted], [found for _, found in counted]
        sources[CARD] = card.data_card(path.stem, found_in, license, jsonl=names).encode()
    left_out = _left_out(path, sources) if path.is_dir() else {}
    return Contents("dataset", f"the records {path}", sources, left_out, (*STORE_FILES, *RECORD_FILES))


def _files(path: Path, patterns: Sequence[str]) -> dict[str, Source]:
    """The files of a folder that the patterns name, by their path in it."""
    names = (file.relative_to(path).as_posix() for file in _walk(path))
    return {name: path / name for name in names if is_any_of(name, patterns)}


def _walk(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if file.is_file())


def _left_out(path: Path, sources: Mapping[str, Source], reason: str = "") -> dict[str, str]:
    """The other files of a folder, each with the reason; of a folder in it that gives nothing, that alone."""
    sent = {source for source in sources.values() if isinstance(source, Path)}
    giving = {file.relative_to(path).parts[0] for file in sent if file.is_relative_to(path)}
    found: dict[str, str] = {}
    for file in _walk(path):
        name = file.relative_to(path)
        if file in sent:
            continue
        if name.parts[0] not in giving and len(name.parts) > 1:
            found[f"{name.parts[0]}/"] = reason or "not among the files that are pushed"
        elif file.suffix in PICKLES:
            found[name.as_posix()] = "weights are pushed as safetensors alone"
        else:
            found[name.as_posix()] = reason or "not among the files that are pushed"
    return found


def check_secrets(sources: Mapping[str, Source], token: str | None) -> None:
    """Raises MghError if a card or a configuration holds what looks like a secret, or the `token` itself;
    the message does not repeat it. In files of held-out texts only the token is looked for."""
    for name, source in sources.items():
        if Path(name).suffix not in DESCRIPTIONS or Path(name).name == "tokenizer.json":
            continue
        text = source.decode() if isinstance(source, bytes) else source.read_text("utf-8", "replace")
        patterns = {} if _holds_texts(name) else SECRETS
        for number, line in enumerate(text.splitlines(), start=1):
            what = next((what for what, pattern in patterns.items() if re.search(pattern, line)), None)
            if token and token in line:
                what = "your token"
            if what:
                where = source if isinstance(source, Path) else name
                raise MghError(
                    f"{where}, line {number}, seems to hold {what}: take it out, and revoke it if others may "
                    "have seen it. Nothing was sent"
                )


def _holds_texts(name: str) -> bool:
    """Whether a file is one in which an evaluation keeps held-out texts."""
    return any(Path(name).match(pattern) for pattern in HELD_OUT_TEXTS)
