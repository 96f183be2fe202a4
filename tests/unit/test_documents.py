# SPDX-License-Identifier: BSD-3-Clause
"""The documents name files, tests and sections that exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CORE, TESTS = REPOSITORY / "wbcache_core", REPOSITORY / "tests"
DOCUMENTS = [REPOSITORY / "README.md", TESTS / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
UPSTREAM = REPOSITORY / "docs" / "upstream"

PATH = re.compile(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|sh|md|xml|conf|service|socket))(?:::(\w+))?[\w:]*`")
HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def text_of(document):
    """The text without blocks of code, on one line."""
    lines = document.read_text().split("\n")
    return " ".join(line for line in lines if not line.startswith("    "))


def anchors_of(document):
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(REPOSITORY)))
def test_paths_exist(document):
    found = PATH.findall(text_of(document))
    places = [[root / path for root in (REPOSITORY, CORE, TESTS, document.parent)] for path, _ in found]
    assert not [path for (path, _), tried in zip(found, places, strict=True) if not any(one.exists() for one in tried)]
    for (path, name), tried in zip(found, places, strict=True):
        source = next(one for one in tried if one.exists()).read_text()
        assert not name or re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), f"{path} has no {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document):
    for path, anchor in LINK.findall(text_of(document)):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors_of(target), f"{path}#{anchor}"


def test_the_documents_were_read():
    assert len(DOCUMENTS) >= 14
    assert sum(len(PATH.findall(text_of(document))) for document in DOCUMENTS) >= 150
    assert sum(len(LINK.findall(text_of(document))) for document in DOCUMENTS) >= 60


def lines_missing_in_hunks(patch):
    """For each hunk, how many lines of the old and of the new text its header promises beyond those that it has."""
    missing = []
    old = new = 0
    for line in patch.read_text().split("\n"):
        if old > 0 or new > 0:
            old -= line[:1] in (" ", "-")
            new -= line[:1] in (" ", "+")
            if (old <= 0 and new <= 0) or line[:1] not in (" ", "-", "+"):
                missing.append((old, new))
                old = new = 0
        elif header := HUNK.fullmatch(line):
            old, new = (int(count or 1) for count in header.groups())
    return [*missing, (old, new)]


def test_patches_for_other_projects_are_whole_and_described():
    patches = sorted(UPSTREAM.glob("*.patch"))
    assert patches == sorted(path for path in UPSTREAM.iterdir() if path.name != "README.md")
    described = set(re.findall(r"`([^`]+\.patch)`", text_of(UPSTREAM / "README.md")))
    assert described == {patch.name for patch in patches}
    for patch in patches:
        missing = lines_missing_in_hunks(patch)
        assert len(missing) > 1
        assert set(missing) == {(0, 0)}, patch.name
        assert re.search(r"^Subject: \[PATCH \d/\d\] ", patch.read_text(), re.MULTILINE)
