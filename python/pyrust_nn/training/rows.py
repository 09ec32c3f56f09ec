"""The rows of a prepared data set, memory-mapped from the cache."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from os import PathLike

import numpy as np
import pyarrow as pa

IGNORED = -100  # torch's cross_entropy ignores this label


@dataclass(frozen=True)
class Row:
    """One row to train on.

    `input_ids` and `labels` are int32 arrays of the same length; `labels[k]` is `input_ids[k]` or -100, so the loss
    must shift them by one. `labels[0]` is always -100: nothing predicts the first token.
    """

    input_ids: np.ndarray
    labels: np.ndarray

    @property
    def target_tokens(self) -> int:
        """The number of tokens that are trained on."""
        return int(np.count_nonzero(self.labels != IGNORED))


class PreparedRows:
    """The rows of an Arrow IPC stream with the columns `input_ids` and `labels`, lists of int32."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Map the file without reading it."""
        with pa.memory_map(str(path)) as source:
            batches = list(pa.ipc.open_stream(source))
        columns = [(batch.column("input_ids"), batch.column("labels")) for batch in batches]
        self.chunks = [(_view(ids.offsets), _view(ids.values), _view(labels.values)) for ids, labels in columns]
        self.ends = list(accumulate(len(offsets) - 1 for offsets, _, _ in self.chunks))

    def __len__(self) -> int:
        """The number of rows."""
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, row: int) -> Row:
        """A row whose arrays are views into the file."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        chunk = bisect_right(self.ends, row)
        offsets, ids, labels = self.chunks[chunk]
        at = row - (self.ends[chunk] - (len(offsets) - 1))
        begin, end = offsets[at], offsets[at + 1]
        return Row(ids[begin:end], labels[begin:end])

    def __iter__(self) -> Iterator[Row]:
        """All rows in order."""
        return (self[row] for row in range(len(self)))

    def lengths(self) -> np.ndarray:
        """The number of tokens of each row, int32 [rows]."""
        return np.concatenate([np.diff(offsets) for offsets, _, _ in self.chunks]) if self.chunks else np.zeros(0, np.int32)


def _view(array: pa.Int32Array) -> np.ndarray:
    # array.to_numpy() would import pandas, which takes a quarter of a second.
    numbers = np.frombuffer(array.buffers()[1], np.int32) if len(array) else np.zeros(0, np.int32)
    return numbers[array.offset : array.offset + len(array)]
