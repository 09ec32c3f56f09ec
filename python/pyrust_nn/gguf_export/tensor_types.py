"""The types of GGUF tensors and files, as the native core lists them (src/gguf/types.rs)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyrust_nn import _core


@dataclass(frozen=True)
class TensorType:
    """A type, with ggml's name and number (`id`), and the elements (`block`) and bytes (`block_bytes`) of a block."""

    name: str
    id: int
    block: int
    block_bytes: int

    def size(self, shape: tuple[int, ...]) -> int:
        """The bytes of a tensor whose rows are whole blocks."""
        return math.prod(shape) // self.block * self.block_bytes


@dataclass(frozen=True)
class FileType:
    """The type of a file: the parameter's value, `general.file_type` (`id`), and the name of most matrices' type."""

    name: str
    id: int
    tensor_type: str


TENSOR_TYPES = {kind.name: kind for kind in (TensorType(**fields) for fields in _core.gguf_types())}
OUTTYPES = {kind.name: kind for kind in (FileType(**fields) for fields in _core.gguf_file_types())}
