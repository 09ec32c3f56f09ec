"""The documentation as HTML: nothing that was meant as text is taken for a tag, and a table's cells know their columns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

TAGS = """
a b article aside body br button code dd del div dl dt em form h1 h2 h3 h4 h5 h6 head header footer hr html i img input ins kbd label li
link main mark meta nav ol p path pre s script section small span strong style sub summary sup svg table tbody td th thead title tr ul
details noscript circle g rect
"""


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.unlabelled = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "td" and "data-label" not in dict(attrs) and not dict(attrs).get("class"):
            self.unlabelled += 1

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(words, cwd=CHECKOUT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_text_became_a_tag(site: Path) -> None:
    """`<think>` in a help text, or a place to fill in such as `<session>`."""
    pages = sorted(site.glob("*.html"))
    assert len(pages) > 10
    for path in pages:
        assert not Page(path.read_text(encoding="utf-8")).tags - set(TAGS.split()), path.name
    assert "<think>" in Page((site / "tasks.html").read_text(encoding="utf-8")).text


def test_every_page_is_in_the_list_of_the_first(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    article = start[start.index("<article") : start.index("</article>")]
    linked = set(re.findall(r'href="([\w-]+\.html)', article[article.index('id="pages"') :]))
    pages = {path.name for path in site.glob("*.html")} - {"index.html", "tasks.html", "404.html"}
    assert not pages - linked


def test_no_page_needs_the_network(site: Path) -> None:
    for path in site.glob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"(https?://[^\"]*)", path.read_text(encoding="utf-8"))
        assert not loaded, path.name


def test_each_cell_of_a_table_has_its_columns_heading(site: Path) -> None:
    for path in site.glob("*.html"):
        assert not Page(path.read_text(encoding="utf-8")).unlabelled, path.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_a_browser_shows_the_pages_without_scrolling_sideways_and_nothing_covered(
    browser: Any, site: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown = context.new_page()
    buttons = 0
    for path in sorted(site.glob("*.html")):
        shown.goto(path.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") <= width, path.name
        found = shown.evaluate(LAYOUT)
        assert not found["wide"] and not found["covered"], (path.name, found)
        buttons += found["buttons"]
    assert buttons > 50, "code can be copied"
    context.close()


LAYOUT = """
() => {
  const box = one => one.getBoundingClientRect();
  // What is drawn beyond the text's column scrolls within itself, or it is wrong.
  // On a phone code reaches to both edges of the screen.
  const edge = innerWidth < 700 ? innerWidth : box(document.querySelector("article")).right;
  const scrolls = one => ["auto", "scroll", "hidden"].includes(getComputedStyle(one).overflowX);
  const within = one => {
    for (let outer = one.parentElement; outer && outer.tagName !== "ARTICLE"; outer = outer.parentElement) if (scrolls(outer)) return true;
    return false;
  };
  const blocks = [...document.querySelectorAll("article pre, article table, article p, article li, article h1, article h2, article h3")];
  const beyond = blocks.filter(one => box(one).width && box(one).right > edge + 1 && !within(one));
  const wide = beyond.map(one => one.outerHTML.slice(0, 200));
  // A button covers code if it stands in the part of the code that is seen.
  const buttons = [...document.querySelectorAll("pre button, pre .md-code__nav")].filter(one => box(one).width);
  const covered = buttons.filter(one => {
    const code = box(one.closest("pre").querySelector("code")), own = box(one);
    return own.left < code.right && own.right > code.left && own.top < code.bottom && own.bottom > code.top;
  }).map(one => one.closest("pre").textContent.slice(0, 200));
  return {wide, covered, buttons: buttons.length};
}
"""
