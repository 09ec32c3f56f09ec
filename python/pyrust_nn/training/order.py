"""The order of the rows: every row once per epoch, shuffled."""

from __future__ import annotations

import random


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of `count` rows in an epoch (the first is 0). It depends on nothing else, so a resumed training has the same."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
