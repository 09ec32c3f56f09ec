"""Which rows go through the model together.

A training step is a set of rows; `cut` divides it into micro-batches of at most `max_tokens` tokens, and the step's
gradient is the sum of theirs. So the budget decides memory and speed, and never what is learned. How rows lie in a
micro-batch is its `Layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch

from pyrust_nn.rows import IGNORED

# Tokens of a micro-batch. On a CPU some hundred rows of a matrix keep the cores busy, and more cost memory;
# a GPU wants more, and says when it is too much (training answers by smaller micro-batches).
MAX_TOKENS = {"cpu": 768, "cuda": 16_384}


class Row(Protocol):
    """What this module reads of a sample."""

    @property
    def input_ids(self) -> np.ndarray:
        """int32 [tokens]."""

    @property
    def labels(self) -> np.ndarray:
        """int32 [tokens]: `input_ids` or -100; the first is -100."""


class Layout(Enum):
    """How the rows of a micro-batch lie."""

    PACKED = "packed"  # one behind the other in one sequence; see `attention`
    EQUAL = "equal"  # side by side, all of one length
    PADDED = "padded"  # side by side, padded on the right to the longest


@dataclass(frozen=True)
class Batches:
    """The rule by which rows become micro-batches.

    `max_tokens` counts padding, too; a longer row goes alone.
    """

    layout: Layout
    max_tokens: int

    def cut(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Divide rows into micro-batches, each row being in exactly one."""
        longest_first = sorted(rows, key=length, reverse=True)
        return self._fill(longest_first) if self.layout is Layout.PACKED else self._side_by_side(longest_first)

    def _fill(self, rows: list[Row]) -> list[list[Row]]:
        """First fit decreasing (at most 11/9 of the fewest bins, plus one), evened out: a product of few tokens is slow."""
        bins: list[list[Row]] = []
        room: list[int] = []
        for row in rows:
            size = length(row)
            at = next((i for i, left in enumerate(room) if left >= size), None)
            if at is None:
                bins.append([row])
                room.append(self.max_tokens - size)
            else:
                bins[at].append(row)
                room[at] -= size
        even = _spread(rows, len(bins))
        # A row beyond max_tokens has a bin to itself.
        return even if all(len(part) == 1 or sum(map(length, part)) <= self.max_tokens for part in even) else bins

    def _side_by_side(self, rows: list[Row]) -> list[list[Row]]:
        groups: list[list[Row]] = []
        for row in rows:
            group = groups[-1] if groups else None
            if group and (len(group) + 1) * length(group[0]) <= self.max_tokens and self._may_join(row, group):
                group.append(row)
            else:
                groups.append([row])
        return groups

    def _may_join(self, row: Row, group: list[Row]) -> bool:
        return self.layout is Layout.PADDED or length(row) == length(group[0])

    def inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A micro-batch as the model's forward takes it, on the CPU: int64 tensors, and lists where said.

        Always `input_ids` and `labels`, and no cache: through one, rows would see each other. Packed, both [1, tokens],
        with `position_ids`, `shift_labels`, `row_lengths` (a list) and flash-attention's names for the same. Side by
        side, [rows, longest], with an `attention_mask` where there is padding.
        """
        if self.layout is Layout.PACKED:
            return _packed(rows)
        shape = (len(rows), max(map(length, rows)))
        input_ids, labels, mask = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
        for at, row in enumerate(rows):
            size = length(row)
            input_ids[at, :size], labels[at, :size], mask[at, :size] = row.input_ids, row.labels, 1
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels), "use_cache": False}
        if not mask.all():
            inputs["attention_mask"] = torch.from_numpy(mask)
        return inputs


def length(row: Row) -> int:
    """How many tokens a row has."""
    return len(row.input_ids)


def target_tokens(rows: Sequence[Row]) -> int:
    """How many tokens of these rows are trained on."""
    return sum(int(np.count_nonzero(row.labels[1:] != IGNORED)) for row in rows)


def _spread(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """These rows, the longest first, in `count` parts of nearly the same number of tokens: each goes where there are fewest."""
    parts: list[list[Row]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in rows:
        at = tokens.index(min(tokens))
        parts[at].append(row)
        tokens[at] += length(row)
    return parts


def _packed(rows: Sequence[Row]) -> dict[str, Any]:
    lengths = [length(row) for row in rows]
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    shifted = [np.append(row.labels[1:], IGNORED) for row in rows]
    return {
        "input_ids": _line([row.input_ids for row in rows]),
        "labels": _line([row.labels for row in rows]),
        "shift_labels": _line(shifted),
        "position_ids": _line([np.arange(size) for size in lengths]),
        "use_cache": False,
        "row_lengths": lengths,
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def _line(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))[None]
