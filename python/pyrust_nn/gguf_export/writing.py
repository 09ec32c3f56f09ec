"""Assembles GGUF plans and hands them to the native core, which writes the files.

A plan is a JSON document, described in the Rust module `gguf::plan`. For each tensor of the file it says which rows of which
safetensors tensor it consists of and how its numbers are stored; it also holds every key. Making it reads no weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from pyrust_nn import ModelError, _core
from pyrust_nn.files import check_free_space, write_text
from pyrust_nn.gguf_export.keys import plan_keys
from pyrust_nn.gguf_export.layout import TensorLayout
from pyrust_nn.gguf_export.tensor_types import TENSOR_TYPES

GgufPlan = dict[str, Any]

logger = logging.getLogger(__name__)


def assemble_plan(
    layout: TensorLayout,
    tensors: list[dict[str, Any]],
    types: Mapping[str, str],
    target: Path,
    add_keys: Callable[[gguf.GGUFWriter], dict[str, Any]],
) -> GgufPlan:
    """A plan from its tensors, whose parts name files by path, and the type of each. `add_keys` adds the keys once the tensors are known.

    `add_keys` returns further entries of the plan, to which its keys refer.
    """
    # gguf's writer knows the types of the keys and counts parameters; it writes no file here.
    writer = gguf.GGUFWriter(path=None, arch=gguf.MODEL_ARCH_NAMES[layout.architecture])
    files: dict[str, int] = {}
    for tensor in tensors:
        name, shape = tensor["name"], tensor["shape"]
        tensor["type"] = types[name]
        for part in tensor.get("parts", ()):
            part["file"] = files.setdefault(part["file"], len(files))
        stored = TENSOR_TYPES[tensor["type"]]
        try:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), stored.size(shape), gguf.GGMLQuantizationType(stored.id))
        except ValueError as cause:
            raise ModelError(
                f"two stored tensors map to {name} in the GGUF file, so they are not of a single model; copy or download the model again"
            ) from cause
    entries = add_keys(writer)
    return {"version": 1, "target": str(target), "files": list(files), **entries, "keys": plan_keys(writer), "tensors": tensors}


def write_gguf_files(plans: dict[str, GgufPlan], session: Any) -> dict[str, int]:
    """Write the file of each outtype's plan, with progress. Returns `size_<outtype>_bytes` of each.

    Raises StorageError if the disk has no room for all of them.
    """
    needed = sum(TENSOR_TYPES[tensor["type"]].size(tensor["shape"]) for plan in plans.values() for tensor in plan["tensors"])
    check_free_space(session.step_folder, needed, "writing GGUF")
    sizes = {}
    for index, (outtype, plan) in enumerate(plans.items()):

        def progress(done: int, total: int, tensor: str, index: int = index) -> None:
            session.progress(index * total + done, len(plans) * total, tensor)

        sizes[f"size_{outtype}_bytes"] = write_gguf(plan, progress)
        logger.info("wrote %s", plan["target"])
    return sizes


def write_gguf(plan: GgufPlan, progress: Callable[[int, int, str], None]) -> int:
    """Make the native core write a plan's file; returns its size in bytes. `progress` is called as `_core.write_gguf` says."""
    target = Path(plan["target"])
    document = target.with_name(f".{target.name}.plan.json")
    try:
        write_text(document, json.dumps(plan, ensure_ascii=False, allow_nan=False), sync=False)
        _core.write_gguf(str(document), progress)
    finally:
        document.unlink(missing_ok=True)
    return target.stat().st_size
