"""The tensors of a folder's safetensors files: names and shapes, without their data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyrust_nn import ModelError
from pyrust_nn.models.model_folder import INDEX, read_json, weight_files
from pyrust_nn.wording import counted


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file. Its shape has the outermost dimension first."""

    file: Path
    name: str
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """Every tensor of a model's safetensors files, file by file and by name, in the order of llama.cpp's converter.

    Raises ModelError if a file is damaged, or if an index names tensors that no file has.
    """
    files = weight_files(folder)
    found: dict[str, StoredTensor] = {}
    for file in files:
        found.update((tensor.name, tensor) for tensor in _file_tensors(file))
    index = folder / INDEX
    listed = read_json(index).get("weight_map", {}) if index.is_file() else {}
    if set(listed.values()) != {file.name for file in files}:
        listed = {}  # the index of other files; the single file is used
    if missing := sorted(set(listed) - set(found)):
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(f"{index} names {counted(len(missing), 'tensor')} that its files lack ({some}); copy or download the model again")
    return list(found.values())


def _file_tensors(path: Path) -> list[StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return [StoredTensor(path, name, tuple(file.get_slice(name).get_shape())) for name in sorted(file.keys())]
    except (SafetensorError, OSError) as cause:
        raise ModelError(f"{path} is not a complete safetensors file: {cause}; copy or download it again") from cause
