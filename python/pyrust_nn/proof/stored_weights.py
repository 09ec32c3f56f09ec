"""The layer `bytes`: every tensor is read back from the disk and compared with the model's, row by row.

A GGUF file is read by `gguf_reader` and decoded by the `gguf` package, a model's folder is read by safetensors: neither is what wrote the
file. The bounds are in `row_bounds`. One wrong row of one tensor fails the file, even where it changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pyrust_nn.models.model_folder import weight_files
from pyrust_nn.models.multimodal import is_other_part, text_name
from pyrust_nn.proof.gguf_file import GgufFile
from pyrust_nn.proof.layers import Layer, LayerNotRunError, judged, not_run
from pyrust_nn.proof.reference import Reference
from pyrust_nn.proof.row_bounds import GRIDS, ROUNDING, STORED, row_bounds
from pyrust_nn.proof.tensor_names import TensorNames

# Sums of a merge are made in float32, in another order than here.
SUMS = 2.0**-20
# llama-quantize reads a file of float16. The converter's own types do not pass it.
CONVERTED = ("f32", "f16", "bf16", "q8_0")


@dataclass
class Comparison:
    """Compares tensors with the model's and notes the worst row."""

    tensors: int = 0
    faults: list[str] = field(default_factory=list)
    worst: dict[str, Any] | None = None

    def add(self, name: str, kind: str, wanted: torch.Tensor, found: torch.Tensor, bounds: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Compare one tensor. `bounds` gives the bound of each row's relative error."""
        self.tensors += 1
        if found.numel() != wanted.numel() or (found.shape[-1:] != wanted.shape[-1:]):
            self.faults.append(f"{name} has the shape {list(found.shape)}, the model's {list(wanted.shape)}")
            return
        if not bool(torch.isfinite(found).all()):
            self.faults.append(f"{name} has numbers that are not finite")
            return
        columns = wanted.shape[-1] if wanted.dim() > 1 else wanted.numel()
        wanted, found = wanted.reshape(-1, columns), found.reshape(-1, columns)
        norms = torch.linalg.vector_norm(wanted, dim=1, dtype=torch.float64)
        distance = torch.linalg.vector_norm(found - wanted, dim=1, dtype=torch.float64)
        errors = torch.where(distance == 0, 0.0, distance / norms.clamp_min(1e-300))
        allowed = bounds(wanted)
        row = int(torch.argmax(errors / allowed.clamp_min(1e-300)))
        error, bound = float(errors[row]), float(allowed[row])
        ratio = error / bound if bound else 0.0
        if self.worst is None or ratio > self.worst["ratio"]:
            self.worst = {"tensor": name, "row": row, "type": kind, "error": min(error, 1e300), "bound": bound, "ratio": min(ratio, 1e300)}
        if error > bound:
            count = int((errors > allowed).sum())
            more = f" ({count} rows differ)" if count > 1 else ""
            relative = f"differs by {error:.3g} of its length, {bound:.3g} is allowed"
            differs = relative if norms[row] else "is not zero, and the model's row is"
            self.faults.append(f"row {row} of {name} ({kind}) {differs}{more}")

    def names(self, wanted: set[str], found: set[str]) -> None:
        """Note tensors that are absent, and those that the model does not have."""
        self.faults += [f"{name} is absent" for name in sorted(wanted - found)]
        self.faults += [f"{name} is not a tensor of the model" for name in sorted(found - wanted)]

    def layer(self) -> Layer:
        """The layer's answer."""
        return judged({"tensors": self.tensors, "worst": self.worst}, self.faults)


def gguf_layer(file: GgufFile, reference: Reference) -> Layer:
    """The layer for a GGUF file."""
    try:
        names = TensorNames(file.architecture, reference.blocks)
        expected = dict(names.expected(reference.weights))
    except LayerNotRunError as cause:
        return not_run(str(cause))
    if "output.weight" in file.tensors:
        expected.setdefault("output.weight", expected["token_embd.weight"])
    comparison = Comparison()
    comparison.names(set(expected), set(file.tensors))
    for name in expected:
        if name not in file.tensors:
            continue
        kind = file.type_of(name)
        if kind not in ROUNDING and kind not in GRIDS:
            return not_run(f"tensor {name} is of type {kind}, for which no bound is known")
        # The weights of an adapter are merged, rounded as their base, and then stored.
        wanted = expected[name].to(reference.dtype).float() if reference.is_adapter else expected[name]
        slack = merge_slack(reference)
        if kind not in ROUNDING and file.outtype not in CONVERTED:
            wanted = wanted.half().float()

        def bounds(rows: torch.Tensor, kind: str = kind, slack: float = slack) -> torch.Tensor:
            return row_bounds(rows, kind, importance=file.has_importance) + slack

        comparison.add(name, kind, wanted, file.decoded(name), bounds)
    return comparison.layer()


def merge_slack(reference: Reference) -> float:
    """What a merge in another order may change: a unit in the last place of the base's dtype."""
    return 2 * unit(reference.dtype) + SUMS if reference.is_adapter else 0.0


def unit(dtype: torch.dtype) -> float:
    """Half a unit in the last place."""
    return ROUNDING[STORED.get(dtype, "F32")]


def folder_layer(folder: Path, reference: Reference) -> Layer:
    """The layer for a folder with a plain model."""
    from safetensors import safe_open

    stored: dict[str, tuple[Path, str]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as opened:
            # Of a model that also sees, the language part is compared.
            stored |= {text_name(name): (path, name) for name in opened.keys() if not is_other_part(name)}  # noqa: SIM118
    expected = dict(folder_tensors(reference.weights, set(stored)))
    if "lm_head.weight" in stored and "lm_head.weight" not in expected:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    comparison = Comparison()
    comparison.names(set(expected), set(stored))
    for name, (path, own) in stored.items():
        if name not in expected:
            continue
        with safe_open(path, framework="pt") as opened:
            found = opened.get_tensor(own)
        kind = STORED.get(found.dtype)
        if kind is None:
            return not_run(f"tensor {name} is of type {found.dtype}, for which no bound is known")

        def bounds(rows: torch.Tensor, kind: str = kind) -> torch.Tensor:
            return row_bounds(rows, kind) + SUMS

        comparison.add(name, kind, expected[name], found.float(), bounds)
    return comparison.layer()


def folder_tensors(weights: dict[str, torch.Tensor], stored: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that a folder must have. Experts that transformers fuses may be stored one by one."""
    for name, tensor in weights.items():
        stem, _, kind = name.rpartition(".")
        if name in stored or not stem.endswith(".experts"):
            yield name, tensor
            continue
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for index, expert in enumerate(tensor):
            for part, matrix in zip(parts, expert.chunk(len(parts), dim=0), strict=True):
                yield f"{stem}.{index}.{part}.weight", matrix


def loaded_layer(weights: dict[str, torch.Tensor], kinds: dict[str, str], reference: Reference, slack: float) -> Layer:
    """The layer for weights that only their library can read: an adapter merged in float32, or matrices in 4 or 8 bits.

    kinds: the type of each weight that is not plain float32.
    """
    comparison = Comparison()
    comparison.names(set(reference.weights), set(weights))
    for name, wanted in reference.weights.items():
        if name not in weights:
            continue
        kind = kinds.get(name, "F32")

        def bounds(rows: torch.Tensor, kind: str = kind) -> torch.Tensor:
            return row_bounds(rows, kind) + slack

        comparison.add(name, kind, wanted, weights[name], bounds)
    return comparison.layer()
