"""The page: it shows the real values, fetches nothing, escapes everything, and copes with a run half done."""

import json
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mgh_ds.common.errors import MghError
from mgh_ds.report.commands import report_command
from mgh_ds.report.page import change, duration, write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}
EVIL = "</title></style><script>alert('x')</script><img src=x onerror=alert(1)> & \"'"
ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """A page taken apart: its tags, its text, its tables' rows; unbalanced tags are refused."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.rows, self.texts = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def row(self, name):
        """The cells of the table row with this head."""
        [found] = [row for row in self.rows if row and row[0].strip() == name]
        return [" ".join(cell.split()) for cell in found]

    def all(self, tag, **attributes):
        return [attrs for name, attrs in self.tags if name == tag and attributes.items() <= attrs.items()]


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_page_shows_the_runs_values(make_run):
    page = page_of(make_run())
    assert page.row("HeldOutRetrieval")[:5] == ["HeldOutRetrieval", "nDCG@10", "81.2", "85.0", "+3.8"]
    assert page.row("HeldOutSTS")[2:5] == ["74.1", "73.4", "−0.7"]
    assert page.row("level 4 · hard")[:5] == [
        "level 4 · hard",
        "margin +0.046 → +0.124, n = 108",
        "61.1",
        "76.9",
        "+15.7",
    ]
    assert "+15.7 points" in page.text
    assert "before training 61.1 %, after training 76.9 %" in page.text
    assert page.row("levels 2, 3")[1] == "21–52"
    assert page.row("40") == ["40", "0.31", "5.3"]
    for fact in ("tiny/encoder", "2 × cpu", "1 min 13 s", "147,456 of 22,860,416", "torch 2.13.0+cpu"):
        assert fact in page.text
    assert "pooling: ata" in page.text


def test_every_chart_is_drawn_and_described(make_run):
    page = page_of(make_run())
    charts = page.all("svg", role="img")
    assert len(charts) == 7  # loss, accuracy, margin, and four instruments
    assert all(re.match(r"Line chart of the .+ over 80 steps: .*\d", chart["aria-label"]) for chart in charts)
    assert {band for band in ("level 1", "levels 2, 3", "level 4") if f"{band}: steps" in page.text} == {
        "level 1",
        "levels 2, 3",
        "level 4",
    }
    for level in "1234":
        assert len(page.all("path", **{"class": f"line level-{level}"})) == 2


def test_what_a_run_has_measured_is_shown_beside_its_throughput(make_run):
    folder = make_run()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"padding_saved": 0.45, "padding_spent": 0.0, "memory_bytes": 2_500_000_000}
        line |= {"mfu": 0.4 if line["step"] > 40 else None, "wait_share": 0.03}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = json.loads((folder / "run.json").read_text())
    info |= {"mfu": 0.4, "memory_bytes": 2_500_000_000, "padding_saved": 0.45, "padding_spent": 0.0}
    info |= {"interpolate": 0.5, "wait_shares": {"batches": 0.031, "checkpoints": 0.004, "evaluations": 0.2}}
    (folder / "run.json").write_text(json.dumps(info))
    page = page_of(folder)
    facts = ("Model FLOPs utilisation40 %", "Memory, at most2.5 GB", "Padding45 % saved")
    facts += ("Waiting for batches3.1 %", "Waiting for evaluations20 %")
    facts += ("Scored and exportedweights at 0.5 of the way from the backbone's to the trained",)
    for fact in facts:
        assert fact in page.text
    for heading in ("Model FLOPs utilisation in percent", "Memory in GB", "Padding saved in percent"):
        assert heading in page.text
    assert "Padding spent" not in page.text
    assert "Scored and exported" not in page_of(make_run(name="other")).text
    assert len(page.all("svg", role="img")) == 7 + 4


def test_the_heat_map_shows_every_weight_relative_to_uniform(make_run):
    folder = make_run()
    page = page_of(folder)
    expected = [
        f"{ratio:.2g}×"
        for text in dict.fromkeys(
            row["text"] for row in json.loads((folder / "token_weights.json").read_text())
        )
        for row in json.loads((folder / "token_weights.json").read_text())
        if row["text"] == text
        for ratio in (weight * len(row["tokens"]) for weight in row["weights"])
    ]
    shown = [attrs["title"] for attrs in page.all("span") if "--s:" in attrs.get("style", "")]
    assert shown == expected


def test_the_page_fetches_nothing(make_run):
    html = write_report(make_run()).read_text(encoding="utf-8")
    page = Page(html)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    addresses = [
        value
        for _tag, attrs in page.tags
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "data")
    ]
    assert addresses == ["data:,"]  # the empty icon, which keeps browsers from asking for one
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _attrs in page.tags}
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_texts_names_and_configuration_are_escaped(make_run):
    folder = make_run()
    clean = {tag for tag, _attrs in page_of(folder).tags}
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        if row["kind"] == "step":
            row["stage_name"] = EVIL
            row["levels"][EVIL] = row["levels"].popitem()[1]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    for name in ("before", "after"):
        path = folder / "evaluation" / f"{name}.json"
        evaluation = json.loads(path.read_text())
        evaluation |= {"label": EVIL, "model": EVIL, "pooling": EVIL}
        evaluation["tasks"] = {EVIL: {"metric": EVIL, "score": 0.5}}
        evaluation["levels"][EVIL] = evaluation["levels"]["1"]
        path.write_text(json.dumps(evaluation))
    info = json.loads((folder / "run.json").read_text())
    info |= {"name": EVIL, "model": EVIL, "device": EVIL, "versions": {EVIL: EVIL}}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "config.yaml").write_text(EVIL)
    weighted = {"text": EVIL, "tokens": [EVIL, "\ud800"], "weights": [0.5, 0.5]}
    (folder / "token_weights.json").write_text(
        json.dumps([{**weighted, "label": label} for label in ("before", "after")])
    )

    page = page_of(folder)
    assert {tag for tag, _attrs in page.tags} <= clean
    assert not any(name.startswith("on") for _tag, attrs in page.tags for name in attrs)
    assert page.text.count("<script>alert('x')</script>") >= 10


def test_a_run_that_still_trains_says_what_is_not_there_yet(make_run):
    folder = make_run("evaluation/after.json", "token_weights.json", "run.json")
    page = page_of(folder)
    assert "Training has not finished: this page shows the run up to step 80." in page.text
    assert page.row("level 4 · hard")[2:5] == ["61.1", "not there yet", ""]
    assert "before training 61.1 %, after training not there yet" in page.text
    assert "Token weights: not there yet." in page.text


def test_a_run_before_its_first_step(make_run):
    folder = make_run(
        "evaluation/before.json", "evaluation/after.json", "token_weights.json", "run.json", "config.yaml"
    )
    (folder / "metrics.jsonl").write_text("")
    page = page_of(folder)
    assert "before its first step" in page.text
    for part in (
        "Held-out scores",
        "The first step",
        "Token weights",
        "Checkpoints",
        "The resolved configuration",
    ):
        assert f"{part}: not there yet." in page.text
    assert "Accuracy on held-out hard negatives: not there yet" in page.text


def test_anchors_before_training_alone(make_run):
    folder = make_run()
    rows = [
        row for row in json.loads((folder / "token_weights.json").read_text()) if row["label"] == "before"
    ]
    (folder / "token_weights.json").write_text(json.dumps(rows))
    assert page_of(folder).text.count("Weights after training: not there yet.") == 3


def test_a_refused_run_leaves_the_page_as_it_was(make_run):
    folder = make_run()
    page = write_report(folder)
    written = page.read_bytes()
    (folder / "run.json").write_text("{")
    with pytest.raises(MghError, match=r"run\.json is not valid JSON"):
        write_report(folder)
    assert page.read_bytes() == written
    assert not list(folder.glob(".report*"))


def test_the_same_run_gives_the_same_page(make_run):
    folder = make_run()
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_the_command_says_where_the_page_lies(make_run, capsys):
    folder = make_run()
    report_command(folder)
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.97, "1 min 00 s"), (200, "3 min 20 s"), (18420, "5 h 07 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("points", "text"), [(12.46, "+12.5"), (-0.31, "−0.3"), (0.04, "±0.0"), (-0.04, "±0.0")]
)
def test_changes(points, text):
    assert change(points) == text


def test_the_report_knows_no_other_room():
    """It reads files only: no torch, no other package of ours than the common floor."""
    code = "import sys, mgh_ds.report.commands; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    ours = {name for name in modules if name.startswith("mgh_ds.") and not name.startswith("mgh_ds.report")}
    floor = ["", ".charts", ".charts.chart", ".charts.scales", ".errors", ".files", ".intervals"]
    assert ours == {f"mgh_ds.common{name}" for name in [*floor, ".score_tables", ".templates"]}
    assert not {"torch", "transformers", "deepspeed", "mteb"} & set(modules)


def test_the_templates_are_part_of_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    data = [
        path for path in (ROOT / "mgh_ds" / "report").iterdir() if path.is_file() and path.suffix != ".py"
    ]
    assert data
    assert all(any(path.match(pattern) for pattern in patterns) for path in data)


def colours(theme):
    """The style sheet's custom colours of a theme, as (r, g, b)."""
    sheets = ("common/charts/colours.css.jinja", "report/style.css.jinja")
    blocks = [(ROOT / "mgh_ds" / sheet).read_text().split(":root {") for sheet in sheets]
    found = dict(
        colour
        for block in blocks
        for colour in re.findall(r"--([\w-]+): ([^;]+);", block[2 if theme == "dark" else 1].split("}")[0])
    )
    return {
        name: [int(value[i : i + 2], 16) for i in (1, 3, 5)]
        if value[0] == "#"
        else list(map(int, value.split()))
        for name, value in found.items()
    }


def luminance(colour):
    """Relative luminance of an sRGB colour (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.1)."""
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_are_readable_in_both_themes(theme):
    """WCAG AA: 4.5 for text, 3 for lines; and harder levels stand out more."""
    palette = colours(theme)
    for text in ("ink", "soft", "up", "down"):
        assert contrast(palette[text], palette["paper"]) >= 4.5
        assert contrast(palette[text], palette["panel"]) >= 4.5
    levels = [palette[f"level-{level}"] for level in "1234"]
    assert all(contrast(colour, palette[ground]) >= 3 for colour in levels for ground in ("paper", "band"))
    assert (ladder := [contrast(colour, palette["paper"]) for colour in levels]) == sorted(ladder)
    for side in ("more", "less"):  # a token at full strength: 0.8 of the colour over the paper
        ground = [0.8 * c + 0.2 * p for c, p in zip(palette[side], palette["paper"], strict=True)]
        assert contrast(palette["ink"], ground) >= 4.5
