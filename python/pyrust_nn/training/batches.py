"""Divides the rows of a training step into micro-batches.

A training step is a set of rows. `split` divides it into micro-batches of at most `max_tokens` tokens, and the step's
gradient is the sum of theirs. So the budget affects memory and speed, but not the result (except for the router's loss of a
mixture of experts, which each micro-batch has for itself). `BatchLayout` says how the rows
of a micro-batch are arranged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from pyrust_nn.training.rows import IGNORED, Row

# Tokens of a micro-batch. Some hundred rows of a matrix keep a CPU busy, and more cost memory. A GPU needs more; if that
# exceeds its memory, training continues with smaller micro-batches.
MAX_TOKENS = {"cpu": 768, "cuda": 16_384}


class BatchLayout(Enum):
    """How the rows of a micro-batch are arranged."""

    PACKED = "packed"  # concatenated to one sequence; see `cpu.packed_attention`
    EQUAL = "equal"  # stacked, all of the same length
    PADDED = "padded"  # stacked, padded on the right to the longest


@dataclass(frozen=True)
class MicroBatching:
    """The rule by which rows are divided into micro-batches.

    `max_tokens` includes padding. A longer row is a micro-batch by itself.
    """

    layout: BatchLayout
    max_tokens: int

    def split(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Divide rows into micro-batches; each row is in exactly one."""
        longest_first = sorted(rows, key=row_length, reverse=True)
        return self._pack(longest_first) if self.layout is BatchLayout.PACKED else self._stack(longest_first)

    def _pack(self, rows: list[Row]) -> list[list[Row]]:
        """First-fit decreasing (at most 11/9 of the minimal number of bins, plus one), then balanced.

        Balanced, because a matrix product of few tokens is slow.
        """
        bins: list[list[Row]] = []
        room: list[int] = []
        for row in rows:
            size = row_length(row)
            at = next((i for i, left in enumerate(room) if left >= size), None)
            if at is None:
                bins.append([row])
                room.append(self.max_tokens - size)
            else:
                bins[at].append(row)
                room[at] -= size
        parts = balanced(rows, len(bins))
        # A row longer than max_tokens has a bin to itself.
        return parts if all(len(part) == 1 or sum(map(row_length, part)) <= self.max_tokens for part in parts) else bins

    def _stack(self, rows: list[Row]) -> list[list[Row]]:
        groups: list[list[Row]] = []
        for row in rows:
            group = groups[-1] if groups else None
            if group and (len(group) + 1) * row_length(group[0]) <= self.max_tokens and self._may_join(row, group):
                group.append(row)
            else:
                groups.append([row])
        return groups

    def _may_join(self, row: Row, group: list[Row]) -> bool:
        return self.layout is BatchLayout.PADDED or row_length(row) == row_length(group[0])

    def inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A micro-batch as arguments of the model's forward: int64 tensors on the CPU, and lists where stated.

        It has `input_ids`, `labels` and `target_positions` (of the positions in the order of the rows, those that predict a target),
        and `use_cache` is off, since rows would see each other through a cache. Packed: [1, tokens], with `position_ids`,
        `shift_labels`, `row_lengths` (a list) and flash-attention's equivalents. Stacked: [rows, longest], with an `attention_mask`
        if there is padding.
        """
        if self.layout is BatchLayout.PACKED:
            return _packed_inputs(rows)
        shape = (len(rows), max(map(row_length, rows)))
        input_ids, labels, mask = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
        for at, row in enumerate(rows):
            size = row_length(row)
            input_ids[at, :size], labels[at, :size], mask[at, :size] = row.input_ids, row.labels, 1
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels), "use_cache": False}
        inputs["target_positions"] = target_positions(np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED))
        if not mask.all():
            inputs["attention_mask"] = torch.from_numpy(mask)
        return inputs


def row_length(row: Row) -> int:
    """The number of tokens of a row."""
    return len(row.input_ids)


def target_tokens(rows: Sequence[Row]) -> int:
    """The number of tokens of these rows that are trained on."""
    return sum(int(np.count_nonzero(row.labels[1:] != IGNORED)) for row in rows)


def balanced(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """Rows (longest first) in `count` parts of similar size: each row goes to the part with the fewest tokens."""
    parts: list[list[Row]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in rows:
        at = tokens.index(min(tokens))
        parts[at].append(row)
        tokens[at] += row_length(row)
    return parts


def _packed_inputs(rows: Sequence[Row]) -> dict[str, Any]:
    lengths = [row_length(row) for row in rows]
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    shifted = np.concatenate([np.append(row.labels[1:], IGNORED) for row in rows])
    return {
        "input_ids": _concatenated([row.input_ids for row in rows]),
        "labels": _concatenated([row.labels for row in rows]),
        "shift_labels": _concatenated([shifted]),
        "target_positions": target_positions(shifted),
        "position_ids": _concatenated([np.arange(size) for size in lengths]),
        "use_cache": False,
        "row_lengths": lengths,
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def target_positions(shifted: np.ndarray) -> torch.Tensor:
    """Where labels that are shifted by one are targets, int64 [targets]. On a GPU the search would wait for everything before it."""
    return torch.from_numpy(np.flatnonzero(shifted != IGNORED))


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The same with the tensors on the device. A GPU copies them while Python goes on; from memory that is not pinned it would not."""
    moved = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
    return inputs | moved


def _concatenated(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))[None]
