"""A GGUF file as the proof reads it: `gguf_reader` finds keys and tensors, the `gguf` package decodes. Nothing here writes such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from pyrust_nn import InputError
from pyrust_nn.proof.gguf_reader import GgufReader


class GgufFile:
    """Keys and tensors of a file. A tensor is decoded when it is asked for, and kept: layers ask for the same ones."""

    def __init__(self, path: Path) -> None:
        """Raises InputError if the file is not a complete GGUF file."""
        self.path = path
        try:
            reader = GgufReader(path)
            self._keys, self.tensors = reader.keys, reader.tensors
            self._decoded: dict[str, torch.Tensor] = {}
        except Exception as cause:  # the reader raises whatever the bytes lead to
            raise InputError(f"{path} is not a complete GGUF file: {cause}; write or copy it again") from cause

    def key(self, name: str, default: Any = None) -> Any:
        """A key's value."""
        return self._keys[name]() if name in self._keys else default

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's kind."""
        return str(self.key("general.architecture"))

    def setting(self, name: str, default: Any = None) -> Any:
        """A key of the architecture, such as `block_count`."""
        return self.key(f"{self.architecture}.{name}", default)

    def type_of(self, name: str) -> str:
        """A tensor's type, as ggml names it."""
        return str(self.tensors[name].tensor_type.name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, outermost dimension first."""
        return tuple(reversed(self.tensors[name].shape))

    def decoded(self, name: str) -> torch.Tensor:
        """A tensor's numbers, float32."""
        if name not in self._decoded:
            tensor = self.tensors[name]
            numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            self._decoded[name] = torch.from_numpy(np.array(numbers, dtype=np.float32)).reshape(self.shape(name))
        return self._decoded[name]

    @property
    def outtype(self) -> str:
        """The type of the file in lower case, such as `q4_k_m`."""
        number = self.key("general.file_type")
        try:
            name = gguf.LlamaFileType(number).name
        except ValueError:
            return f"file type {number}"
        return "f32" if name == "ALL_F32" else name.removeprefix("MOSTLY_").lower()

    @property
    def has_importance(self) -> bool:
        """Whether the file says that it was made with an importance matrix."""
        return any(name.startswith("quantize.imatrix.") for name in self._keys)
