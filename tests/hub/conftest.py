"""The hub's client, pointed at a stand-in."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from mgh_ds.records.schema import Record
from mgh_ds.records.store import StoreWriter
from tests.hub import stand_in
from tests.hub.stand_in import Hub
from tests.records.examples import record_values


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in to which the client of this process speaks, with a token that it accepts."""
    with stand_in.serving() as hub:
        # What HF_ENDPOINT would set; the client reads it when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        resolve = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", stand_in.TOKEN)
        yield hub


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """The files of an exported model, each a few bytes."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("config.json", "mgh_ds.json", "modules.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}\n")
    save_file({"layer": np.arange(4, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "README.md").write_text("---\ntags: [mgh-ds]\n---\n# A model\n")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of 5 records, with 4 graded negatives each."""
    with StoreWriter(tmp_path / "store") as writer:
        for number in range(5):
            writer.add(Record.model_validate(record_values(number)))
    return tmp_path / "store"


def tree_of(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
