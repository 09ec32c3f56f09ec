"""The types of tensors in GGUF files, as the native core lists them (src/gguf/types.rs)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyrust_nn import _core


@dataclass(frozen=True)
class TensorType:
    """A type, with ggml's name and number (`id`), and the elements (`block`) and bytes (`block_bytes`) of a block.

    `outtype` is the parameter's value for files with matrices of this type and `file_type` their `general.file_type`; both are
    None if there are no such files.
    """

    name: str
    outtype: str | None
    file_type: int | None
    id: int
    block: int
    block_bytes: int

    def size(self, shape: tuple[int, ...]) -> int:
        """The bytes of a tensor whose rows are whole blocks."""
        return math.prod(shape) // self.block * self.block_bytes


TENSOR_TYPES = {kind.name: kind for kind in (TensorType(**fields) for fields in _core.gguf_types())}
OUTTYPES = {kind.outtype: kind for kind in TENSOR_TYPES.values() if kind.outtype is not None}
