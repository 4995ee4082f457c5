"""A file that grows by a line a step, as a kill, a bad disk or a resume leaves it."""

from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.common.json_lines import JsonLines


@pytest.fixture
def lines(tmp_path: Path) -> JsonLines:
    """Three steps; the first one's checkpoint became visible after the third."""
    lines = JsonLines(tmp_path / "run" / "metrics.jsonl")
    for step in (1, 2, 3):
        lines.append({"kind": "step", "step": step})
    lines.append({"kind": "checkpoint", "step": 1})
    return lines


def test_what_came_after_a_step_is_forgotten(lines: JsonLines) -> None:
    lines.rewind(1)
    assert list(lines.entries()) == [{"kind": "step", "step": 1}, {"kind": "checkpoint", "step": 1}]


@pytest.mark.parametrize("torn", [b'{"kind": "st', b'{"kind": "step", "step": 4}', b'{"kind": "\xc3'])
def test_a_torn_last_line_is_left_out_and_removed(torn: bytes, lines: JsonLines) -> None:
    """Also one that lacks nothing but its end: more may be missing than can be seen."""
    whole = lines.path.read_bytes()
    lines.path.write_bytes(whole + torn)
    assert [entry["step"] for entry in lines.entries()] == [1, 2, 3, 1]
    lines.rewind(3)
    assert lines.path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe", b"null", b"[1]", b"{}", b""])
def test_a_damaged_line_is_named_and_nothing_is_lost(damage: bytes, lines: JsonLines) -> None:
    first, *others = lines.path.read_bytes().splitlines(keepends=True)
    content = b"".join([first, damage + b"\n", *others])
    lines.path.write_bytes(content)
    with pytest.raises(MghError, match="line 2 is damaged"):
        lines.rewind(1)
    assert lines.path.read_bytes() == content


def test_before_the_first_line_there_is_nothing(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    assert list(lines.entries()) == []
    lines.rewind(0)
    assert lines.path.read_bytes() == b""
