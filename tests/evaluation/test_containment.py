"""mteb is imported without a trace in the home."""

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgh_ds.evaluation import containment
from mgh_ds.evaluation.containment import contained_mteb


@pytest.fixture
def cache_at_import(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The cache folder that mteb is told of at each import."""
    told: list[str | None] = []
    monkeypatch.delitem(sys.modules, "mteb", raising=False)
    monkeypatch.delenv("MTEB_CACHE", raising=False)

    def imported(name: str) -> Any:
        assert name == "mteb"
        told.append(os.environ.get("MTEB_CACHE"))

    monkeypatch.setattr(containment, "importlib", SimpleNamespace(import_module=imported))
    return told


def test_a_home_without_a_cache_of_mtebs_gets_none(
    cache_at_import: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null/nowhere")  # nothing can be made there
    with contained_mteb():
        pass
    assert cache_at_import == [tempfile.gettempdir()]
    assert "MTEB_CACHE" not in os.environ


def test_a_cache_that_the_user_has_stays_mtebs(
    cache_at_import: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "mteb").mkdir(parents=True)
    with contained_mteb():
        pass
    monkeypatch.setenv("MTEB_CACHE", "/somewhere")
    with contained_mteb():
        pass
    assert cache_at_import == [None, "/somewhere"]
    assert os.environ["MTEB_CACHE"] == "/somewhere"
