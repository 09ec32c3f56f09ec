"""Numbers in messages."""

from __future__ import annotations

from pyrust_nn import _core


def counted(number: float, noun: str) -> str:
    """`1 row`, `2,000 rows`, `0.5 epochs`."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.0 h` or `2.5 days`, as in the results of a step."""
    return _core.duration(seconds)
