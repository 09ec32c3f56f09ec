"""Which tensors of a GGUF file hold a parameter of a model in transformers, by the names of the `gguf` package.

Two matrices that transformers fuses, gate and up of all experts, are two tensors in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import gguf
import torch

from pyrust_nn.proof.layers import LayerNotRunError

# Architectures whose rows llama.cpp stores as transformers does.
MODEL_TYPES = {"qwen2": "qwen2", "qwen2moe": "qwen2_moe", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
_ARCHITECTURES = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}


def check_architecture(name: str) -> None:
    """Raise LayerNotRunError for an architecture whose tensors are stored in another form."""
    if name not in MODEL_TYPES:
        raise LayerNotRunError(f"a file of architecture {name} is not compared; those that are: {', '.join(MODEL_TYPES)}")


class TensorNames:
    """The names for one architecture and number of blocks."""

    def __init__(self, architecture: str, blocks: int) -> None:
        """`architecture` is llama.cpp's name. Raises LayerNotRunError if it is not compared."""
        check_architecture(architecture)
        self._names = gguf.get_tensor_name_map(_ARCHITECTURES[architecture], blocks)

    def of(self, parameter: str) -> list[str]:
        """The names of the tensors of a parameter, in the order of its second-last dimension. Raises LayerNotRunError if there are none."""
        if match := re.fullmatch(r"(.+\.experts)\.(gate_up_proj|down_proj)", parameter):
            stems = [f"{match[1]}.{part}_proj" for part in (("gate", "up") if match[2] == "gate_up_proj" else ("down",))]
            return [f"{self._name(stem)}.weight" for stem in stems]
        return [self._name(parameter)]

    def _name(self, parameter: str) -> str:
        found = self._names.get_name(parameter, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise LayerNotRunError(f"parameter {parameter} of the model has no name in a GGUF file")
        return found

    def expected(self, weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor that a file of these parameters must have."""
        for parameter, tensor in weights.items():
            names = self.of(parameter)
            yield from zip(names, tensor.chunk(len(names), dim=-2) if len(names) > 1 else [tensor], strict=True)
