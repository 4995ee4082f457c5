"""The page in a real browser: it renders, complains of nothing, and is readable in light and dark."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mgh_ds.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr
    --window-size=1060,1600"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


@pytest.fixture
def browse(tmp_path):
    """Opens a page headless with more flags; returns its standard output and its console's lines."""

    def browse(page, *flags):
        profile = tmp_path / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", *flags, page.as_uri()]
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
