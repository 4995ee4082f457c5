"""Result files."""

import csv
import math

import pytest

from benchmarks import table
from benchmarks.table import Row
from mgh_ds.common import files
from mgh_ds.common.charts import figure
from mgh_ds.common.charts.chart import Logarithmic
from mgh_ds.common.charts.figure import Panel

ROW = Row("padded", "full", "float16", 64, "16/8", 512, 32, 16384, "forward", "ours: out")
ENVIRONMENT = {"device": "Some chip, with a comma", "torch": "2.13.0"}


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "new" / "chip.csv"
    rows = [
        ROW._replace(ms=0.123456, tflops=1234.5, host_us=0.0),
        ROW._replace(note='out of memory, "really"', ms=None),
    ]
    table.write(path, ENVIRONMENT, Row._fields, rows)
    environment, found = table.read(path)
    assert environment == ENVIRONMENT
    assert [row["ms"] for row in found] == ["0.1235", ""]
    assert (found[0]["tflops"], found[0]["host_us"], found[0]["heads"]) == ("1234", "0", "16/8")
    assert found[1]["note"] == 'out of memory, "really"'
    assert list(found[0]) == list(Row._fields)


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "chip.csv"
    rows = [
        ROW._replace(ms=0.1235, first_s=3.0, note="a note"),
        ROW._replace(direction="check", ratio=math.inf),
        ROW,
    ]
    table.write(path, ENVIRONMENT, Row._fields, rows)
    assert table.rows(table.read(path)[1]) == rows


def test_without_the_lines_that_begin_with_a_hash_it_is_plain_csv(tmp_path):
    path = tmp_path / "chip.csv"
    table.write(path, ENVIRONMENT, Row._fields, [ROW])
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert next(csv.DictReader(lines))["what"] == "ours: out"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "chip.csv"
    table.write(path, ENVIRONMENT, Row._fields, [ROW])
    before = path.read_bytes()

    def full_disk(_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        table.write(path, ENVIRONMENT, Row._fields, [ROW, ROW])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_plot_shows_every_point_once_and_nothing_that_is_not_there():
    lines = {"ours": [(64, 1.0), (128, 2.0)], "theirs & others": [(64, 10.0)], "absent": []}
    svg = figure.render([Panel("Time", "n", "ms", lines), Panel("Nothing", "n", "ms", {"absent": []})])
    assert svg.count("<circle") == 3
    assert "theirs &amp; others" in svg
    assert "absent" not in svg
    assert "Nothing" not in svg


def test_scattered_points_are_not_joined_and_ninth_series_are_hollow():
    points = {f"series {number}": [(number, 1.0), (number, 2.0)] for number in range(9)}
    svg = figure.render([Panel("Trade", "x", "y", points, scattered=True, levels=["series 3"])])
    assert svg.count("<circle") == 2 * 9 + 9
    assert svg.count('class="dot series-0 hollow"') == 3
    assert svg.count("<path") == 9 + 1, "empty ones, and the line across"
    assert 'class="line series-0" d=""' in svg
    assert svg.count('class="faint series-3"') == 1


def test_the_plots_axes_are_logarithmic():
    axis = Logarithmic.around([64, 8192], 2)
    assert axis.place(64) == pytest.approx(1 - axis.place(8192))
    steps = [axis.place(2 * x) - axis.place(x) for x in (64, 512, 4096)]
    assert steps == pytest.approx([steps[0]] * 3)
    assert axis.ticks() == [2.0**i for i in range(6, 14)]
