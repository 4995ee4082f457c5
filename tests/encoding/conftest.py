"""A tiny model and corpora that the tests of this room and of mining share."""

import os

import pytest

from mgh_ds.model.encoder import Encoder
from mgh_ds.model.fingerprint import fingerprint
from mgh_ds.model.tiny import make_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "bert"
    make_tiny_model("bert", folder)
    return str(folder)


@pytest.fixture(scope="session")
def encoder(model) -> Encoder:
    encoder = Encoder.from_pretrained(model, "mean", device="cpu")
    encoder.origin = {"weights": fingerprint(model)}
    return encoder


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No rank and no array task of whatever runs the tests."""
    for name in os.environ:
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
