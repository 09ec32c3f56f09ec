"""Adds to each cell of a table the heading of its column, which a narrow screen shows beside it (see extra.css)."""

import re
from typing import Any


def on_page_content(html: str, **kwargs: Any) -> str:
    """Called by MkDocs with the HTML of a page."""
    return re.sub("<table>.*?</table>", labelled, html, flags=re.DOTALL)


def labelled(table: re.Match[str]) -> str:
    """The table with `data-label` on its cells."""
    headings = [re.sub("<[^>]*>", "", heading).strip() for heading in re.findall("<th[^>]*>(.*?)</th>", table[0], re.DOTALL)]

    def row(found: re.Match[str]) -> str:
        columns = iter(headings)
        return re.sub("<td", lambda _: f'<td data-label="{next(columns, "")}"', found[0])

    return re.sub("<tr>.*?</tr>", row, table[0], flags=re.DOTALL)
