"""A LoRA adapter in a GGUF file: what llama.cpp adds to each matrix of the base, beside what peft adds.

llama.cpp adds alpha / rank · B A, with one `adapter.lora.alpha` for the file and the rank of each pair. An element of A stored with an
error of at most e_A, and one of B of at most e_B, give an element of the product an error of at most |B| e_A + e_B |A| + e_B e_A.
"""

from __future__ import annotations

from typing import Any

import torch

from pyrust_nn import InputError
from pyrust_nn.models.loading import load_model
from pyrust_nn.proof.gguf_file import GgufFile
from pyrust_nn.proof.layers import Layer, LayerNotRunError
from pyrust_nn.proof.reference import Reference
from pyrust_nn.proof.row_bounds import GRIDS, ROUNDING, SMALLEST_HALF
from pyrust_nn.proof.stored_weights import SUMS, Comparison
from pyrust_nn.proof.tensor_names import TensorNames

EMBEDDING = "token_embd.weight"
"""Its A has a row for each token, because llama.cpp looks rows up."""


class GgufAdapter:
    """The pairs of a file, and those of the reference, by the file's name of the matrix."""

    def __init__(self, file: GgufFile, reference: Reference) -> None:
        """Raises InputError if the reference is a whole model, LayerNotRunError if the file cannot be compared."""
        if not reference.is_adapter:
            raise InputError(f"{file.path} is an adapter, and {reference.name} a whole model; give the adapter that it was made from")
        if (kind := file.key("adapter.type")) != "lora":
            raise LayerNotRunError(f"an adapter of type {kind} is not compared")
        self.file, self.base = file, reference
        names = TensorNames(file.architecture, reference.blocks)
        self.alpha = float(file.key("adapter.lora.alpha"))
        self.modules: dict[str, Any] = {}
        self.parameters: dict[str, str] = {}
        for name, module in reference.model.get_base_model().named_modules():
            if not hasattr(module, "lora_A"):
                continue
            if not hasattr(module, "weight"):
                raise LayerNotRunError(f"the adapter changes {name}, which is not one matrix")
            (stored,) = names.of(f"{name}.weight")
            self.modules[stored], self.parameters[stored] = module, f"{name}.weight"

    @property
    def stored(self) -> set[str]:
        """The matrices that the file changes."""
        return {name.rpartition(".lora_")[0] for name in self.file.tensors}

    @property
    def coarsest(self) -> str:
        """The type of the file's least precise tensor, in lower case."""
        kinds = {self.file.type_of(name) for name in self.file.tensors}
        return next((kind for kind in ("Q8_0", "BF16", "F16") if kind in kinds), "F32").lower()

    def halves(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A [rank, in] and B [out, rank] of the file for one matrix, float32; of an embedding A is [rank, tokens]."""
        a, b = (self.file.decoded(f"{name}.lora_{half}") for half in "ab")
        return (a.T if name == EMBEDDING else a), b

    def product(self, name: str) -> torch.Tensor:
        """What llama.cpp adds to one matrix."""
        a, b = self.halves(name)
        return oriented(name, b @ a) * (self.alpha / a.shape[0])

    def model(self) -> Any:
        """The base in float32 with the file's products added to its weights."""
        model: Any = load_model(str(self.base.whole), device=self.base.device, dtype=torch.float32)
        if EMBEDDING in self.stored and model.get_output_embeddings().weight is model.get_input_embeddings().weight:
            head = model.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name in sorted(self.stored & set(self.parameters)):
                weights[self.parameters[name]].add_(self.product(name).to(self.base.device))
        return model


def oriented(name: str, product: torch.Tensor) -> torch.Tensor:
    """A product as its matrix is stored."""
    return product.T if name == EMBEDDING else product


def adapter_layer(adapter: GgufAdapter, reference: Reference) -> Layer:
    """The layer `bytes`: what is added to each row of each matrix."""
    comparison = Comparison()
    comparison.names(set(adapter.modules), adapter.stored)
    for name, module in adapter.modules.items():
        file = adapter.file
        pair = [f"{name}.lora_{half}" for half in "ab"]
        if any(half not in file.tensors for half in pair):
            continue
        (key,) = module.lora_A.keys() or module.lora_embedding_A.keys()
        plain = bool(module.lora_A)
        a = (module.lora_A[key].weight if plain else module.lora_embedding_A[key]).detach().float().cpu()
        b = (module.lora_B[key].weight if plain else module.lora_embedding_B[key]).detach().float().cpu()
        scale = float(module.scaling[key])
        kinds = [file.type_of(half) for half in pair]
        if unknown := [kind for kind in kinds if kind not in ROUNDING and kind != "Q8_0"]:
            raise LayerNotRunError(f"the tensors of {name} are of type {unknown[0]}, for which no bound is known")
        error_a = element_errors(a.T, kinds[0]).T if name == EMBEDDING else element_errors(a, kinds[0])
        error_b = element_errors(b, kinds[1])
        most = b.abs() @ error_a + error_b @ (a.abs() + error_a) + SUMS * (b.abs() @ a.abs())
        allowed = torch.linalg.vector_norm(oriented(name, most) * abs(scale), dim=1, dtype=torch.float64)

        def bounds(rows: torch.Tensor, allowed: torch.Tensor = allowed) -> torch.Tensor:
            return allowed / torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).clamp_min(1e-300)

        comparison.add(name, kinds[0], oriented(name, b @ a) * scale, adapter.product(name), bounds)
    return comparison.layer()


def element_errors(stored: torch.Tensor, kind: str) -> torch.Tensor:
    """The largest error of each element of a matrix that is stored row by row in this type."""
    if kind in ROUNDING:
        return stored.abs() * ROUNDING[kind] + (SMALLEST_HALF if kind == "F16" else 0.0)
    grid = GRIDS[kind]
    largest = stored.abs().unflatten(1, (-1, grid.block)).amax(2).repeat_interleave(grid.block, dim=1)
    return largest * (grid.half_step / grid.levels + 2.0**-11) + SMALLEST_HALF * grid.levels
