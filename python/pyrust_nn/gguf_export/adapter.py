"""The plan for a LoRA adapter's GGUF file.

llama.cpp adds `alpha / rank · B A` to a matrix, with one alpha for the whole file and the rank of each pair. An adapter
that has more than such pairs (DoRA's magnitudes, biases, whole modules) cannot be expressed and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from pyrust_nn import InputError
from pyrust_nn.gguf_export.keys import ModelLabel, add_metadata
from pyrust_nn.gguf_export.layout import Ranges, TensorLayout, tensor_type
from pyrust_nn.gguf_export.plan import text_config
from pyrust_nn.gguf_export.writing import GgufPlan, assemble_plan
from pyrust_nn.models.adapter_folder import adapter_base, checked_adapter_folder
from pyrust_nn.models.adapters import known_base_folder, read_adapter
from pyrust_nn.models.lora_pairs import LORA_TENSOR, beyond_low_rank, module_alpha
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.models.stack import parent_folders
from pyrust_nn.models.tiny import TINY_MODEL

_MERGE = "merge it into its base (convert_model_to_gguf does that with an adapter)"


def adapter_plan(adapter: str, outtype: str, target: Path, name: ModelLabel, base_model: str | None = None) -> GgufPlan:
    """The plan for a LoRA adapter. Raises InputError if llama.cpp cannot apply it."""
    folder = checked_adapter_folder(adapter)
    reading = read_adapter(folder, known_base_folder(adapter, base_model))
    settings = reading.settings
    _check(settings, folder)
    base = adapter_base(adapter, base_model)
    layout = TensorLayout(text_config(str(model_folder(base)) if base == TINY_MODEL else base, f"{base}, the base of adapter {folder}"))
    pairs = _pairs(reading.tensors, layout, folder)
    alpha = _alpha(settings, {module: a.shape[0] for module, (a, _) in pairs.items()}, folder)

    def add_keys(writer: gguf.GGUFWriter) -> dict[str, Any]:
        add_metadata(writer, folder, name, gguf.GGUFType.ADAPTER)
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        if tokens := settings.get("alora_invocation_tokens"):
            kinds = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
            writer.add_key_value(gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS, tokens, *kinds)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        return {}

    tensors = list(_tensors(pairs, layout, folder))
    types = {tensor["name"]: tensor_type(tensor["name"], tensor["shape"], outtype) for tensor in tensors}
    return assemble_plan(layout, tensors, types, target, add_keys)


def _check(settings: dict[str, Any], folder: Path) -> None:
    if parent_folders(folder):
        raise InputError(
            f"adapter {folder} cannot be a GGUF adapter: it is stacked on others, and a file holds one; join them first (task flatten)"
        )
    if reason := beyond_low_rank(settings):
        raise InputError(f"adapter {folder} cannot be a GGUF adapter: {reason}, which llama.cpp does not support; {_MERGE}")


@dataclass(frozen=True)
class _Half:
    """A of a pair, [rank, in], or B, [out, rank], and its place. `transpose`: the stored matrix is the transpose."""

    file: Path
    name: str
    shape: tuple[int, ...]
    transpose: bool


def _pairs(tensors: list[dict[str, Any]], layout: TensorLayout, folder: Path) -> dict[str, tuple[_Half, _Half]]:
    """A and B of every adapted module, by the module's name."""
    halves: dict[str, dict[str, _Half]] = {}
    for tensor in tensors:
        match = LORA_TENSOR.fullmatch(tensor["name"])
        fused = match and re.search(r"\.experts(\.base_layer)*$", match[1])
        if match is None or fused:
            what = "adapts experts that are fused into one tensor" if fused else "does not belong to a low-rank pair"
            raise InputError(f"adapter {folder} cannot be a GGUF adapter: its tensor {tensor['name']} {what}; {_MERGE}")
        half = _Half(Path(tensor["file"]), tensor["stored"], tuple(tensor["shape"]), tensor["transpose"])
        halves.setdefault(match[1], {})[match[2]] = half
    if layout.config.get("tie_word_embeddings") and any(module.endswith("lm_head") for module in halves):
        raise InputError(
            f"adapter {folder} cannot be a GGUF adapter: it adapts lm_head, which its base shares with the embedding, so "
            f"llama.cpp would not find it; {_MERGE}"
        )
    return {module: (half["A"], half["B"]) for module, half in halves.items()}


def _alpha(settings: dict[str, Any], ranks: dict[str, int], folder: Path) -> float:
    """The single alpha with which llama.cpp scales every pair as peft does. Raises InputError if there is none."""
    alphas = {module_alpha(settings, module, rank) for module, rank in ranks.items()}
    if len(alphas) > 1:
        raise InputError(
            f"adapter {folder} cannot be a GGUF adapter: its modules have different alphas, and llama.cpp supports one for all; {_MERGE}"
        )
    return alphas.pop()


def _tensors(pairs: dict[str, tuple[_Half, _Half]], layout: TensorLayout, folder: Path) -> Iterator[dict[str, Any]]:
    incomplete: dict[str, dict[tuple[int, str], tuple[_Half, _Half]]] = {}
    for module, (a, b) in pairs.items():
        name = layout.text_model_name(f"{module}.weight")
        if name is None:
            raise InputError(
                f"adapter {folder} cannot be a GGUF adapter: it adapts {module}, which is not part of the text model; {_MERGE}"
            )
        if (expert := layout.expert(name)) is not None:
            stem, index, projection = expert
            experts = incomplete.setdefault(stem, {})
            experts[index, projection] = (a, b)
            if len(experts) == 3 * layout.experts:
                yield from _stacked(stem, incomplete.pop(stem), layout)
            continue
        (mapping,) = layout.mappings(name, (b.shape[0], a.shape[1]))
        # llama.cpp looks up rows of an embedding's A, which peft stores as columns.
        is_embedding = mapping.name == "token_embd.weight"
        yield _half(f"{mapping.name}.lora_a", a, columns=mapping.columns, transpose=is_embedding)
        yield _half(f"{mapping.name}.lora_b", b, rows=mapping.rows)
    if incomplete:
        stem = next(iter(incomplete))
        raise InputError(
            f"adapter {folder} cannot be a GGUF adapter: it adapts only some matrices of {stem}, and llama.cpp needs all; {_MERGE}"
        )


def _stacked(stem: str, experts: dict[tuple[int, str], tuple[_Half, _Half]], layout: TensorLayout) -> Iterator[dict[str, Any]]:
    for projection in ("down_proj", "gate_proj", "up_proj"):
        name = layout.gguf_name(f"{stem}.{projection}.weight")
        stack = [experts[index, projection] for index in range(layout.experts)]
        for half, letter in ((0, "a"), (1, "b")):
            parts = [{"file": str(pair[half].file), "tensor": pair[half].name, "transpose": pair[half].transpose} for pair in stack]
            yield {"name": f"{name}.lora_{letter}", "shape": (layout.experts, *stack[0][half].shape), "parts": parts}


def _half(name: str, source: _Half, rows: Ranges | None = None, columns: Ranges | None = None, transpose: bool = False) -> dict[str, Any]:
    part: dict[str, Any] = {"file": str(source.file), "tensor": source.name, "transpose": transpose != source.transpose}
    part |= {"rows": rows} if rows is not None else {}
    part |= {"columns": columns} if columns is not None else {}
    return {"name": name, "shape": source.shape[::-1] if transpose else source.shape, "parts": [part]}
