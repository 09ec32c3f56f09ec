"""Plans for GGUF files: what the native core has to write, as one JSON document.

The document's form is described in src/gguf/plan.rs. A plan says for each tensor of the file which rows of which
safetensors file it is made of and how its numbers are stored, and holds every key. Making it reads no weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from pyrust_nn import ModelError, _core
from pyrust_nn.gguf_keys import Label, add_hyperparameters, add_metadata, as_plan
from pyrust_nn.gguf_layout import Choice, Layout, check_complete, next_token_blocks, tensor_bytes, tensor_type
from pyrust_nn.gguf_vocab import add_vocabulary
from pyrust_nn.sources import checked_model_folder, is_offline, read_json

Plan = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file; shape outermost dimension first."""

    file: Path
    name: str
    shape: tuple[int, ...]


def model_plan(folder: Path, outtype: str, target: Path, name: Label) -> Plan:
    """The plan for a whole model. Raises ModelError where the folder's model cannot be a GGUF file, and says why."""
    checked_model_folder(str(folder))
    config = text_config(str(folder), folder)
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method", "some method")
        raise ModelError(
            f"the weights in {folder} are quantized by {method}, and GGUF formats are made from plain ones; convert the model "
            "that they were quantized from (outtype q8_0 stores 8.5 bits a weight)"
        )
    stored = stored_tensors(folder)
    layout = Layout(config, next_token_blocks([tensor.name for tensor in stored]))
    tensors = list(_model_tensors(stored, layout, folder))
    check_complete({tensor["name"] for tensor in tensors}, layout, folder)

    def add_keys(writer: gguf.GGUFWriter) -> dict[str, Any]:
        add_metadata(writer, folder, name, gguf.GGUFType.MODEL)
        add_hyperparameters(writer, layout, outtype)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        return {"vocabulary": add_vocabulary(writer, folder, config["vocab_size"])}

    return assemble(layout, tensors, outtype, target, add_keys)


def text_config(model: str, place: Path | str) -> dict[str, Any]:
    """The configuration of a model's text part as transformers completes it (a folder or a hub name)."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=is_offline() or Path(model).is_dir())
    except Exception as cause:
        line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise ModelError(f"the configuration of {place} cannot be read: {line}; check its config.json") from cause
    values = config.to_dict()
    return {**values, **values.get("text_config", {})}


def stored_tensors(folder: Path, weights: str = "model") -> list[Stored]:
    """Every tensor of a folder's safetensors files, file by file and by name, as llama.cpp's converter takes them.

    Raises ModelError where a file is damaged, or an index names tensors that no file has.
    """
    index = folder / f"{weights}.safetensors.index.json"
    listed: dict[str, str] = read_json(index).get("weight_map", {}) if index.is_file() else {}
    names = sorted(set(listed.values())) or sorted(file.name for file in folder.glob(f"{weights}*.safetensors"))
    found: dict[str, Stored] = {}
    for file in names:
        found.update((tensor.name, tensor) for tensor in _file_tensors(folder / file))
    if missing := sorted(set(listed) - set(found)):
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(f"{index} names {len(missing)} tensors that its files lack ({some}); copy or download the model again")
    return list(found.values())


def _file_tensors(path: Path) -> list[Stored]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return [Stored(path, name, tuple(file.get_slice(name).get_shape())) for name in sorted(file.keys())]
    except (SafetensorError, OSError) as cause:
        raise ModelError(f"{path} is no whole safetensors file: {cause}; copy or download it again") from cause


def _model_tensors(stored: list[Stored], layout: Layout, folder: Path) -> Iterator[dict[str, Any]]:
    """The tensors of the file in the converter's order; experts that are stored one by one are stacked."""
    waiting: dict[str, dict[tuple[int, str], Stored]] = {}
    for tensor in stored:
        name = layout.text_name(tensor.name)
        if name is None:
            continue
        if (expert := layout.expert(name)) is None:
            for choice in layout.choices(name, tensor.shape):
                yield _decay(choice, tensor) if choice.decay else _entry(choice, [tensor])
            continue
        stem, index, projection = expert
        experts = waiting.setdefault(stem, {})
        experts[index, projection] = tensor
        if len(experts) == 3 * layout.experts:
            del waiting[stem]
            yield from _stacked(stem, experts, layout)
    if waiting:
        stem, experts = next(iter(waiting.items()))
        raise ModelError(
            f"the weights in {folder} lack experts: {stem} has {len(experts)} of {3 * layout.experts} matrices; "
            "copy or download the model again"
        )


def _stacked(stem: str, experts: dict[tuple[int, str], Stored], layout: Layout) -> Iterator[dict[str, Any]]:
    for projection in ("down_proj", "gate_proj", "up_proj"):
        stack = [experts[index, projection] for index in range(layout.experts)]
        name = layout.gguf_name(f"{stem}.{projection}.weight")
        yield _entry(Choice(name, (layout.experts, *stack[0].shape)), stack)


def _entry(choice: Choice, sources: list[Stored]) -> dict[str, Any]:
    part: dict[str, Any] = {}
    if choice.rows is not None:
        part["rows"] = choice.rows
    if choice.columns is not None:
        part["columns"] = choice.columns
    parts = [{"file": str(source.file), "tensor": source.name, **part} for source in sources]
    entry: dict[str, Any] = {"name": choice.name, "shape": choice.shape, "parts": parts}
    if choice.add is not None:
        entry["add"] = choice.add
    return entry


def _decay(choice: Choice, source: Stored) -> dict[str, Any]:
    """-exp(A_log), a number for each head: computed here by torch, as the converter does, to be the same to the last bit."""
    import torch
    from safetensors import safe_open

    with safe_open(source.file, framework="pt") as file:
        stored = file.get_tensor(source.name)
    numbers = -torch.exp(stored if stored.dtype in (torch.float16, torch.float32) else stored.float())
    if not torch.isfinite(numbers).all():
        raise ModelError(f"tensor {source.name} in {source.file} has no finite decay; the model's weights are damaged")
    if choice.columns is not None:
        numbers = torch.cat([numbers[first : first + count] for first, count in choice.columns])
    return {"name": choice.name, "shape": choice.shape, "values": numbers.float().tolist()}


def assemble(
    layout: Layout,
    tensors: list[dict[str, Any]],
    outtype: str,
    target: Path,
    add_keys: Callable[[gguf.GGUFWriter], dict[str, Any]],
) -> Plan:
    """A plan from tensors (whose parts name files by path) and what adds the keys once the tensors are known.

    `add_keys` returns what of the plan its keys refer to.
    """
    # gguf's writer knows the types of keys and counts parameters; it writes nothing here.
    writer = gguf.GGUFWriter(path=None, arch=gguf.MODEL_ARCH_NAMES[layout.architecture])
    files: dict[str, int] = {}
    for tensor in tensors:
        name, shape = tensor["name"], tensor["shape"]
        tensor["type"] = tensor_type(name, shape, outtype)
        for part in tensor.get("parts", ()):
            part["file"] = files.setdefault(part["file"], len(files))
        size = tensor_bytes(shape, tensor["type"])
        try:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, gguf.GGMLQuantizationType[tensor["type"]])
        except ValueError as cause:
            raise ModelError(f"two stored tensors are {name} in the GGUF file; the weights are of no single model") from cause
    referred = add_keys(writer)
    return {"version": 1, "target": str(target), "files": list(files), **referred, "keys": as_plan(writer), "tensors": tensors}


def write_files(plans: dict[str, Plan], session: Any) -> dict[str, int]:
    """Write the file of each outtype's plan, with progress; returns `size_<outtype>_bytes` of each."""
    sizes = {}
    for index, (outtype, plan) in enumerate(plans.items()):

        def progress(done: int, total: int, tensor: str, index: int = index) -> None:
            session.progress(index * total + done, len(plans) * total, tensor)

        sizes[f"size_{outtype}_bytes"] = write(plan, progress)
        logger.info("wrote %s", plan["target"])
    return sizes


def write(plan: Plan, progress: Callable[[int, int, str], None]) -> int:
    """Have the native core write a plan's file; returns its size in bytes. `progress` as `_core.write_gguf` calls it."""
    target = Path(plan["target"])
    document = target.with_name(f".{target.name}.plan.json")
    try:
        document.write_text(json.dumps(plan, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        _core.write_gguf(str(document), progress)
    finally:
        document.unlink(missing_ok=True)
    return target.stat().st_size
