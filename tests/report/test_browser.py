"""The page in a real browser: it renders, complains of nothing, is readable in light and dark, and shows of
what queries find the one that is clicked."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mgh_ds.report.page import write_report
from tests.report.chromium import CHROMIUM, FLAGS, Browser

MORE = ["--enable-logging=stderr", "--window-size=1060,1600"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


@pytest.fixture
def browse(tmp_path):
    """Opens a page headless with more flags; returns its standard output and its console's lines."""

    def browse(page, *flags):
        profile = tmp_path / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        command = [CHROMIUM, *FLAGS, *MORE, f"--user-data-dir={profile}", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return browse


def test_the_page_renders_without_complaint(make_run, browse):
    dom, console = browse(write_report(make_run()), "--dump-dom")
    assert "before training 61.1 %, after training 76.9 %" in " ".join(dom.split())
    assert dom.count('role="img"') == 8
    assert console == []


def test_the_browser_refuses_what_the_page_must_not_fetch(make_run, browse):
    """The page's own policy holds, and the console check above can fail."""
    page = write_report(make_run())
    page.write_text(page.read_text().replace("</main>", "<img src='picture.png'></main>"))
    _dom, console = browse(page, "--dump-dom")
    assert any("picture.png" in line for line in console)


@pytest.mark.parametrize(("theme", "scheme"), [("light", 1), ("dark", 0)])
def test_a_picture_of_the_page_is_not_blank(make_run, browse, tmp_path, theme, scheme):
    picture = tmp_path / "page.png"
    browse(
        write_report(make_run()), f"--screenshot={picture}", f"--blink-settings=preferredColorScheme={scheme}"
    )
    grey = np.asarray(Image.open(picture).convert("L"), dtype=np.float64)
    assert len(np.unique(grey)) > 50
    assert grey.std() > 10
    assert grey.mean() > 200 if theme == "light" else grey.mean() < 60


SEEN = """[...document.querySelectorAll('.query > article')].filter(each => each.checkVisibility())
    .map(each => each.innerText)"""
TOPS = """[...document.querySelectorAll(':checked ~ article .column')]
    .map(each => each.getBoundingClientRect().top)"""


def test_clicks_and_keys_choose_what_is_seen_of_retrieval(browsed_run, tmp_path):
    page = write_report(browsed_run)
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)

        def seen():
            [text] = browser.value(SEEN)  # one query's columns alone
            return text.splitlines()[0]

        assert seen() == "question 0"
        browser.click("label[for=query-3]")  # its words
        assert seen() == "question 2"
        browser.click("#query-2")  # its button
        assert seen() == "question 1"
        browser.press("ArrowUp")
        assert seen() == "question 0"
        browser.press("ArrowUp")
        assert seen() == "question 3", "from the first to the last"
        browser.press("ArrowDown")
        browser.press("ArrowDown")
        assert seen() == "question 1"
        browser.press("Tab")
        assert not browser.value("document.activeElement.matches('input')"), "one stop for all of them"
        before, after = browser.value(TOPS)
        assert before == after, "side by side"
        browser.open(page, width=420)
        before, after = browser.value(TOPS)
        assert before < after, "one above the other where there is no room"
        assert browser.console == []
