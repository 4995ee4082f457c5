"""What the pages point at is there: links, headings, and files that are named."""

import re
from pathlib import Path

import pytest

PAGES = [
    path
    for path in sorted(Path().rglob("*.md"))
    if not any(part == "runs" or part == "build" or part.startswith(".") for part in path.parts)
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ROOMS = ("mgh_ds", "kernels", "tests", "benchmarks", "launch", "configs", "docs", "requirements")
NAMED = re.compile(rf"`((?:{'|'.join(ROOMS)})/[\w./-]+)`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """Of a page, as the part of a link after `#`."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page}: {link}"
        if heading:
            assert heading in headings(target), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_that_are_named_are_there(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # which names what was removed
    # What an example adds is not there yet.
    added = set(re.findall(r"^New file `(\S+)`:", page.read_text(encoding="utf-8"), re.MULTILINE))
    for name in set(NAMED.findall(page.read_text(encoding="utf-8"))) - added:
        assert Path(name).exists(), f"{page}: {name}"


def test_there_are_pages_and_the_index_of_docs_names_all() -> None:
    assert len(PAGES) > 15
    index = set(LINK.findall(Path("docs/README.md").read_text(encoding="utf-8")))
    assert {path.name for path in Path("docs").glob("*.md")} - {"README.md"} == index
