"""Which file `training.deepspeed` means."""

from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.training.config import TrainingConfig
from mgh_ds.training.engine import SHIPPED, settings_file


def test_the_default_ships_in_the_package_and_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    default = TrainingConfig(steps=1, global_batch=1, micro_batch=1).deepspeed
    assert settings_file(default) == SHIPPED / "zero2.json"
    assert settings_file(default).is_file()


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings_file("zero2.json") == Path("zero2.json")
    assert settings_file("mine/zero2") == Path("mine/zero2")
    Path("zero2").write_text("{}")
    assert settings_file("zero2") == Path("zero2"), "a file of the user's own wins over the package's"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(MghError, match=r"'zero3'; did you mean `zero2`\? Known: zero2; or give the path"):
        settings_file("zero3")
