"""Numbers in messages."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """`1 row`, `2,000 rows`, `0.5 epochs`."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"
