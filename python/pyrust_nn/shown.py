"""Summaries as a notebook shows them: dicts and lists, with a table and the curve of the loss as HTML."""

from __future__ import annotations

import json
from typing import Any

from pyrust_nn import _core


class ShownSummary(dict[str, Any]):
    """A step's summary. It is a dict in every respect; a notebook shows `_repr_html_`."""

    def _repr_html_(self) -> str | None:
        """HTML with the state, what was made, the metrics and the loss. None for a dict that is no longer a summary."""
        try:
            return _core.summary_html(json.dumps(self))
        except (TypeError, ValueError):
            return None


class ShownSummaries(list[Any]):
    """The summaries of a pipeline's steps, in order."""

    def _repr_html_(self) -> str:
        """The summaries one below the other."""
        return "".join(one._repr_html_() or "" for one in self if isinstance(one, ShownSummary))
