"""An adapter's lineage: its base, the adapter that it continues, and the data sets of all its training stages.

`lineage.json` in an adapter's folder holds: `base` and `parent` (null for a new adapter) by name and SHA-256 of their
weights; `adapter`, its own SHA-256; `stack`, the subfolders and SHA-256 of its frozen parents, oldest first; and `stages`,
oldest first, each with its data set and the options with which that was read.

The SHA-256 of weights is over the bytes of a folder's safetensors files in the order of their names. Rust computes it and
reads each file once per process.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pyrust_nn import InputError, _core
from pyrust_nn.files import write_json
from pyrust_nn.models.adapter_folder import LINEAGE, recorded_base
from pyrust_nn.models.model_folder import local_folder, model_folder, read_json
from pyrust_nn.models.stack import parent_folders

logger = logging.getLogger(__name__)


def compare_base(adapter: Path, base: str, *, given: bool) -> None:
    """Say what is known of a base that was given for an adapter, instead of the one that the adapter names.

    Its shapes are compared when the adapter is read. Weights can differ rightly: an adapter that was trained on quantized
    weights is merged into the plain ones.
    """
    if not given:
        return
    named, known = recorded_base(adapter), read_lineage(str(adapter))
    if named is not None and local_folder(base) is not None and Path(named).is_dir() and same_weights(named, base):
        return
    wanted = known["base"]["sha256"] if known else None
    if wanted is None:
        logger.info("adapter %s names %s as its base; %s has its shapes and is used", adapter, named or "no model", base)
    elif _core.weights_hash(model_folder(base)) != wanted:
        logger.warning("base_model %s has other weights than the base that adapter %s was trained on (SHA-256); it is used", base, adapter)


def same_weights(one: str, other: str) -> bool:
    """Whether two models (folders, `builtin:tiny`, hub names) are the same by name, by folder, or by their weights' bytes."""
    if one == other:
        return True
    folders = [local_folder(model) for model in (one, other)]
    if folders[0] is None or folders[1] is None:
        return False
    if folders[0].resolve() == folders[1].resolve():
        return True
    hashes = [_core.weights_hash(folder) for folder in folders if folder]
    return hashes[0] is not None and hashes[0] == hashes[1]


def read_lineage(adapter: str) -> dict[str, Any] | None:
    """An adapter's lineage.json; None for an adapter of another tool or of a version that wrote none."""
    path = model_folder(adapter) / LINEAGE
    return read_json(path) if path.is_file() else None


def check_trained_on(adapter: str, model: str) -> None:
    """Raise InputError if an adapter was trained on other weights than the model's, by their SHA-256 as far as it is known.

    The base that it names may be on another machine; then only its shapes can be compared, which reading it does.
    """
    known, named = read_lineage(adapter), recorded_base(model_folder(adapter))
    there = named is not None and local_folder(named) is not None
    if known is None or _core.weights_hash(model_folder(model)) != known["base"]["sha256"]:
        differs = named is not None and there and not same_weights(named, model)
    else:
        differs = False
    if differs:
        raise InputError(f"checkpoint_lora: {adapter} was trained on {named}, but {model} has other weights; give {named} as model")
    if known is None and not there:
        logger.info(
            "adapter %s names %s as its base, which is not here; %s has its shapes and is used", adapter, named or "no model", model
        )
    check_lineage(adapter, model)


def check_lineage(adapter: str, model: str) -> None:
    """Raise InputError if the weights of an adapter, a parent or its base have changed since the adapter was made."""
    known = read_lineage(adapter)
    if known is None:
        return
    own, unchanged = model_folder(adapter), "restore the adapter as it was trained"
    for what, folder, recorded, fix in (
        ("the adapter", own, known["adapter"]["sha256"], unchanged),
        *(("its parent", own / parent["folder"], parent["sha256"], unchanged) for parent in known.get("stack") or []),
        ("its base", model_folder(model), known["base"]["sha256"], "give the base as it was, or train a new adapter on this one"),
    ):
        if _core.weights_hash(folder) != recorded:
            raise InputError(f"checkpoint_lora: {what} {folder} has other weights than when {adapter} was made (SHA-256); {fix}")


def write_lineage(folder: Path, base: str, base_sha256: str | None, *, parent: str | None, stages: list[dict[str, Any]]) -> None:
    """Write lineage.json beside an adapter's saved weights. `parent` is the adapter that it continues."""
    record = {
        "base": {"model": base, "sha256": base_sha256},
        "adapter": {"sha256": _core.weights_hash(folder)},
        "parent": {"adapter": parent, "sha256": _core.weights_hash(model_folder(parent))} if parent else None,
        "stack": [{"folder": str(path.relative_to(folder)), "sha256": _core.weights_hash(path)} for path in parent_folders(folder)],
        "stages": stages,
    }
    write_json(folder / LINEAGE, record)
