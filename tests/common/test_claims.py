"""Files that several processes make, one of them each."""

import pytest

from mgh_ds.common import claims, files
from mgh_ds.common.claims import claimed, made, once
from mgh_ds.common.errors import MghError
from mgh_ds.common.labels import label


def test_what_is_held_by_another_process_is_left_to_it(tmp_path):
    with files.hold(tmp_path / ".a.lock"), claimed(tmp_path, "a") as mine:
        assert not mine
    with claimed(tmp_path, "a") as mine:
        assert mine
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_no_other_file(tmp_path):
    for name in (".a.npy.x1", ".b.npy.x2", "a.npy"):
        (tmp_path / name).write_text("")
    with claimed(tmp_path, "a"):
        assert {path.name for path in tmp_path.iterdir()} == {".a.lock", ".b.npy.x2", "a.npy"}


@pytest.mark.usefixtures("disk_without_locks")
def test_without_locks_everybody_may_make_it_and_nothing_of_another_process_is_removed(tmp_path):
    (tmp_path / ".a.npy.x1").write_text("")
    with claimed(tmp_path, "a") as mine:
        assert mine
        assert (tmp_path / ".a.npy.x1").exists()


def test_what_is_done_is_not_made_and_what_fails_may_be_tried_again(tmp_path):
    path = tmp_path / "a"

    def fail():
        raise MghError("no room")

    with pytest.raises(MghError, match="no room"):
        made(tmp_path, "a", path.exists, fail)
    assert made(tmp_path, "a", path.exists, path.touch)
    assert made(tmp_path, "a", path.exists, fail)


def test_a_file_that_another_process_makes_is_waited_for(tmp_path, monkeypatch):
    path, held = tmp_path / "a", files.hold(tmp_path / ".a.lock")

    def wait(_):
        path.touch()
        held.close()

    monkeypatch.setattr(claims.time, "sleep", wait)
    once(tmp_path, "a", path.exists, lambda: pytest.fail("the other one made it"))


def test_a_label_is_written_once_and_another_refused_with_the_difference(tmp_path):
    label(tmp_path / "made_of.json", {"depth": 3})
    label(tmp_path / "made_of.json", {"depth": 3})
    with pytest.raises(MghError, match=r"made of something else .depth: 3 → 4"):
        label(tmp_path / "made_of.json", {"depth": 4})
