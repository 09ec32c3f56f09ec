"""Reads GGUF files for the proof. It shares nothing with what writes them, and a vocabulary of 150,000 strings costs it little.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian). The types and the sizes of their
blocks are those of the `gguf` package, whose own reader makes several NumPy arrays of every string.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""Of the tensors' data, unless the key `general.alignment` says otherwise."""

STRING, ARRAY = 8, 9
NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
"""The types of keys that have a size, by their numbers."""

PLAIN = {
    gguf.GGMLQuantizationType.F16: "<f2",
    gguf.GGMLQuantizationType.F32: "<f4",
    gguf.GGMLQuantizationType.F64: "<f8",
    gguf.GGMLQuantizationType.I8: "<i1",
    gguf.GGMLQuantizationType.I16: "<i2",
    gguf.GGMLQuantizationType.I32: "<i4",
    gguf.GGMLQuantizationType.I64: "<i8",
}
"""The types of tensors whose numbers stand alone."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as it is stored. `shape`: innermost dimension first, as in the file. `data`: numbers, or bytes of blocks, row by row."""

    name: str
    shape: tuple[int, ...]
    tensor_type: gguf.GGMLQuantizationType
    data: np.ndarray


class GgufReader:
    """`keys`: functions that read the values. `tensors` by name. Raises ValueError, struct.error and others for what is no GGUF file."""

    def __init__(self, path: Path) -> None:
        """Map the file and read its header."""
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._place = 0
        magic, version = self._take(4), self._number("<I")
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError(f"it begins with {magic!r} and version {version}, not with {MAGIC!r} and 2 or 3")
        tensors, keys = self._number("<Q"), self._number("<Q")
        self.keys: dict[str, Callable[[], Any]] = {}
        for _ in range(keys):
            name = self._string()
            if name in self.keys:
                raise ValueError(f"it has the key {name} twice")
            self.keys[name] = self._value(self._number("<I"))
        entries = [self._entry() for _ in range(tensors)]
        alignment = int(self.keys["general.alignment"]()) if "general.alignment" in self.keys else ALIGNMENT
        begin = -(-self._place // alignment) * alignment
        self.tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in entries:
            if name in self.tensors:
                raise ValueError(f"it has the tensor {name} twice")
            self.tensors[name] = GgufTensor(name, shape, kind, self._data(name, shape, kind, begin + offset))

    def _take(self, size: int) -> bytes:
        end = self._place + size
        if end > len(self._bytes):
            raise ValueError(f"it ends at byte {len(self._bytes)}, in the middle of its header")
        taken = self._bytes[self._place : end]
        self._place = end
        return taken

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(number)

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8")

    def _value(self, kind: int) -> Callable[[], Any]:
        """Pass a value; what is returned reads it."""
        if kind == STRING:
            text = self._string()
            return lambda: text
        if kind == ARRAY:
            kind, count = self._number("<I"), self._number("<Q")
            return self._strings(count) if kind == STRING else self._numbers(kind, count)
        numbers = self._numbers(kind, 1)
        return lambda: numbers()[0]

    def _numbers(self, kind: int, count: int) -> Callable[[], list[Any]]:
        if kind not in NUMBERS:
            raise ValueError(f"a key has the type {kind}, which is none of an array or a value")
        form = np.dtype(NUMBERS[kind])
        content = self._take(form.itemsize * count)
        return lambda: np.frombuffer(content, form).tolist()

    def _strings(self, count: int) -> Callable[[], list[str]]:
        begin, place, whole = self._place, self._place, len(self._bytes)
        size_at, content = struct.Struct("<Q").unpack_from, self._bytes
        for _ in range(count):
            place += 8 + size_at(content, place)[0]
            if place > whole:
                raise ValueError(f"it ends at byte {whole}, in the middle of an array of strings")
        self._place = place

        def read() -> list[str]:
            texts, at = [], begin
            for _ in range(count):
                end = at + 8 + size_at(content, at)[0]
                texts.append(content[at + 8 : end].decode("utf-8"))
                at = end
            return texts

        return read

    def _entry(self) -> tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]:
        name, dimensions = self._string(), self._number("<I")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        return name, shape, gguf.GGMLQuantizationType(self._number("<I")), self._number("<Q")

    def _data(self, name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType, begin: int) -> np.ndarray:
        rows = tuple(reversed(shape))
        form = np.dtype(PLAIN.get(kind, "u1"))
        stored = rows if kind in PLAIN else gguf.quants.quant_shape_to_byte_shape(rows, kind)
        count = math.prod(stored)
        if begin + count * form.itemsize > len(self._bytes):
            raise ValueError(f"it has {len(self._bytes)} bytes, and its tensor {name} ends at {begin + count * form.itemsize}")
        return np.frombuffer(self._bytes, form, count, begin).reshape(stored)
