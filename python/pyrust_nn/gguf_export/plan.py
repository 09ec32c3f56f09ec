"""The plan for a whole model's GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from pyrust_nn import ModelError, UsageError, _core
from pyrust_nn.gguf_export.keys import ModelLabel, add_hyperparameters, add_metadata
from pyrust_nn.gguf_export.layout import (
    TensorLayout,
    TensorMapping,
    check_blocks,
    check_complete,
    check_shapes,
    next_token_blocks,
    tensor_type,
)
from pyrust_nn.gguf_export.mix import CONVERTER_TYPES, Mix, ModelShape, TypeChoices, check_importance, visiting_order
from pyrust_nn.gguf_export.stored_tensors import StoredTensor, stored_tensors
from pyrust_nn.gguf_export.vocab import add_vocabulary
from pyrust_nn.gguf_export.writing import GgufPlan, assemble_plan
from pyrust_nn.models.model_folder import checked_model_folder, first_line, is_offline
from pyrust_nn.models.multimodal import language_config


@dataclass(frozen=True)
class Importance:
    """An importance matrix: its file, and what `_core.imatrix_header` says of it."""

    file: Path
    header: dict[str, Any]

    @classmethod
    def read(cls, file: str | None) -> Importance | None:
        """Read a file's names. Raises ModelError if it is not an importance matrix."""
        return cls(Path(file), _core.imatrix_header(file)) if file else None


def model_plan(
    folder: Path,
    outtype: str,
    target: Path,
    name: ModelLabel,
    choices: TypeChoices | None = None,
    importance: Importance | None = None,
) -> GgufPlan:
    """The plan for the model in a folder. Raises ModelError if it cannot be converted to GGUF."""
    config = plain_config(folder)
    stored = stored_tensors(folder)
    layout = TensorLayout(config, next_token_blocks([tensor.name for tensor in stored]))
    check_blocks([tensor.name for tensor in stored], layout, folder)
    tensors = list(_model_tensors(stored, layout, folder))
    check_complete({tensor["name"] for tensor in tensors}, layout, folder)
    check_shapes({tensor["name"]: tuple(tensor["shape"]) for tensor in tensors}, layout, folder)

    def add_keys(writer: gguf.GGUFWriter) -> dict[str, Any]:
        add_metadata(writer, folder, name, gguf.GGUFType.MODEL)
        add_hyperparameters(writer, layout, outtype)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        entries: dict[str, Any] = {"vocabulary": add_vocabulary(writer, folder, config["vocab_size"])}
        if outtype not in CONVERTER_TYPES:
            entries["half"] = True
        if importance is not None and outtype not in CONVERTER_TYPES:
            _add_importance(writer, importance)
            entries["imatrix"] = str(importance.file)
        return entries

    types = _types(tensors, layout, outtype, choices or TypeChoices(), importance)
    return assemble_plan(layout, tensors, types, target, add_keys)


def _types(
    tensors: list[dict[str, Any]], layout: TensorLayout, outtype: str, choices: TypeChoices, importance: Importance | None
) -> dict[str, str]:
    """The type of each tensor, by name."""
    shapes = {tensor["name"]: tensor["shape"] for tensor in tensors}
    unmixed = outtype if outtype in CONVERTER_TYPES else "f16"
    types = {name: tensor_type(name, shape, unmixed) for name, shape in shapes.items()}
    if outtype in CONVERTER_TYPES and choices == TypeChoices():
        return types
    config = layout.config
    model = ModelShape(
        gguf.MODEL_ARCH_NAMES[layout.architecture],
        layout.blocks,
        layout.experts,
        config["num_attention_heads"] // config["num_key_value_heads"],
    )
    mix = Mix(outtype, model, list(shapes), importance is not None, choices)
    types |= {name: mix.type_of(name, shapes[name], types[name]) for name in sorted(shapes, key=visiting_order)}
    mix.log_replaced()
    check_importance(outtype, types, set(importance.header["entries"]) if importance else None)
    return types


def _add_importance(writer: gguf.GGUFWriter, importance: Importance) -> None:
    """The keys by which llama-quantize notes the importance matrix."""
    writer.add_string("quantize.imatrix.file", importance.file.name)
    if datasets := importance.header["datasets"]:
        writer.add_string("quantize.imatrix.dataset", datasets[0])
    writer.add_uint32("quantize.imatrix.entries_count", len(importance.header["entries"]))
    if chunks := importance.header["chunks"]:
        writer.add_uint32("quantize.imatrix.chunks_count", chunks)


def plain_config(folder: Path) -> dict[str, Any]:
    """The configuration of the text model in a folder. Raises UsageError if its weights are quantized."""
    checked_model_folder(str(folder))
    config = text_config(str(folder), folder)
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method", "some method")
        raise UsageError(
            f"the weights in {folder} are quantized by {method}, and GGUF files are made from plain weights; convert the model "
            "from which they were quantized (outtype q8_0 stores 8.5 bits per weight)"
        )
    return config


def text_config(model: str, place: Path | str) -> dict[str, Any]:
    """The configuration of a model's text part, with transformers' defaults.

    `model` is a folder or a hub name; `place` names it in errors.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=is_offline() or Path(model).is_dir())
        config = language_config(config) or config
    except ModelError:
        raise
    except Exception as cause:
        raise ModelError(f"the configuration of {place} cannot be read: {first_line(cause)}; check its config.json") from cause
    values = config.to_dict()
    return {**values, **values.get("text_config", {})}


def _model_tensors(stored: list[StoredTensor], layout: TensorLayout, folder: Path) -> Iterator[dict[str, Any]]:
    """The tensors of the file in the order of llama.cpp's converter. Experts that are stored separately are stacked."""
    incomplete: dict[str, dict[tuple[int, str], StoredTensor]] = {}
    for tensor in stored:
        name = layout.text_model_name(tensor.name)
        if name is None:
            continue
        if (expert := layout.expert(name)) is None:
            for mapping in layout.mappings(name, tensor.shape):
                yield _decay_entry(mapping, tensor) if mapping.decay else _entry(mapping, [tensor])
            continue
        stem, index, projection = expert
        experts = incomplete.setdefault(stem, {})
        experts[index, projection] = tensor
        if len(experts) == 3 * layout.experts:
            del incomplete[stem]
            yield from _stacked(stem, experts, layout)
    if incomplete:
        stem, experts = next(iter(incomplete.items()))
        raise ModelError(
            f"the weights in {folder} lack experts: {stem} has {len(experts)} of {3 * layout.experts} matrices; "
            "copy or download the model again"
        )


def _stacked(stem: str, experts: dict[tuple[int, str], StoredTensor], layout: TensorLayout) -> Iterator[dict[str, Any]]:
    for projection in ("down_proj", "gate_proj", "up_proj"):
        stack = [experts[index, projection] for index in range(layout.experts)]
        name = layout.gguf_name(f"{stem}.{projection}.weight")
        yield _entry(TensorMapping(name, (layout.experts, *stack[0].shape)), stack)


def _entry(mapping: TensorMapping, sources: list[StoredTensor]) -> dict[str, Any]:
    part: dict[str, Any] = {}
    if mapping.rows is not None:
        part["rows"] = mapping.rows
    if mapping.columns is not None:
        part["columns"] = mapping.columns
    parts = [{"file": str(source.file), "tensor": source.name, **part} for source in sources]
    entry: dict[str, Any] = {"name": mapping.name, "shape": mapping.shape, "parts": parts}
    if mapping.add is not None:
        entry["add"] = mapping.add
    return entry


def _decay_entry(mapping: TensorMapping, source: StoredTensor) -> dict[str, Any]:
    """-exp(A_log), a number for each head, computed by torch as in llama.cpp's converter, so that all bits agree."""
    import torch
    from safetensors import safe_open

    with safe_open(source.file, framework="pt") as file:
        stored = file.get_tensor(source.name)
    numbers = -torch.exp(stored if stored.dtype in (torch.float16, torch.float32) else stored.float())
    if not torch.isfinite(numbers).all():
        raise ModelError(
            f"tensor {source.name} in {source.file} has no finite decay, so the weights are damaged; copy or download the model again"
        )
    if mapping.columns is not None:
        numbers = torch.cat([numbers[first : first + count] for first, count in mapping.columns])
    return {"name": mapping.name, "shape": mapping.shape, "values": numbers.float().tolist()}
