# SPDX-License-Identifier: BSD-3-Clause
"""A page as a headless browser shows it."""

import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

from tests.support import clients

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser")
LIMIT_S = 120
LIGHT, DARK = 1, 0
"""What the user prefers, as Blink calls it."""


def _program():
    found = [path for name in PROGRAMS if (path := shutil.which(name, path=clients.environment()["PATH"]))]
    assert found, f"none of {', '.join(PROGRAMS)} is installed"
    return found[0]


def _browse(page, *options, width=1200, height=900, scheme=LIGHT):
    """Load a file; returns what it printed. Fails if the page loads anything else, or has something to complain of."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                _program(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--enable-logging=stderr", f"--user-data-dir={profile}", f"--window-size={width},{height}",
                f"--blink-settings=preferredColorScheme={scheme}", *options, Path(page).as_uri(),
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    return done.stdout


def screenshot(page, path, **window):
    """As {(red, green, blue): pixels}."""
    import numpy
    from matplotlib.image import imread

    _browse(page, f"--screenshot={path}", **window)
    pixels = (imread(path)[:, :, :3] * 255).round().astype(int)
    found, counts = numpy.unique(pixels @ [1 << 16, 1 << 8, 1], return_counts=True)
    return {
        (colour >> 16, colour >> 8 & 255, colour & 255): count
        for colour, count in zip(found.tolist(), counts.tolist(), strict=True)
    }


def measured(page, folder, expression, **window):
    """What a script finds in a copy of the page, which itself allows none."""
    text = Path(page).read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy
    script = f"<script>document.body.dataset.found = String({expression})</script>"
    copy = folder / "copy.html"
    copy.write_text(text.replace(policy[0], "").replace("</body>", f"{script}</body>"))
    return re.search(r'data-found="([^"]*)"', _browse(copy, "--dump-dom", **window))[1]


class Text(HTMLParser):
    """The elements of a document, and its text as a reader sees it."""

    def __init__(self, document):
        super().__init__()
        self.elements, self.attributes, self.words, self._open = [], [], "", []
        self.feed(document)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.words += data


def assert_complete_in_itself(document):
    """Well formed; it runs nothing, and names nothing that would be loaded."""
    page = Text(document)
    assert not {"script", "iframe", "object", "embed", "img", "form"} & set(page.elements)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("href", "src", "xlink:href") or value.startswith("data:")
    style = re.search(r"<style>(.*?)</style>", document, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    return page.words
