"""Stacked adapters: a new one trained beside frozen parents, and whole only together with them.

An adapter's folder holds its parents, oldest first, in `parents/1`, `parents/2` and so on, each as peft's files;
lineage.json lists them under `stack`. In memory they are further adapters of one PeftModel, all of them active. Every
adapter of a stack is made of low-rank pairs alone, so that a stack can always be merged and flattened.
"""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from pyrust_nn import ModelError
from pyrust_nn.pairs import beyond_pairs
from pyrust_nn.sources import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE, checked_adapter_folder, read_json

PARENTS = "parents"
NEWEST = "default"
"""peft's name of the adapter that stands in the folder itself; the parents are called parent_1, parent_2 and so on."""


def parent_folders(folder: Path) -> list[Path]:
    """The folders of an adapter's parents, oldest first; none for an adapter that stands alone.

    Raises ModelError where a parent is missing, or one of the stack is no plain low-rank adapter.
    """
    recorded = read_json(folder / LINEAGE).get("stack") or [] if (folder / LINEAGE).is_file() else []
    for parent in recorded:
        if not (folder / parent["folder"] / ADAPTER_WEIGHTS).is_file():
            raise ModelError(
                f"adapter {folder} was trained upon {parent['folder']}, which is not there; copy the folder with all its subfolders"
            )
    found = [path for path in (folder / PARENTS).glob("*") if path.name.isdecimal()]
    parents = [checked_adapter_folder(str(path)) for path in sorted(found, key=lambda path: int(path.name))]
    for member in [*parents, folder] if parents else []:
        check_stackable(member)
    return parents


def check_stackable(folder: Path) -> None:
    """Raise ModelError for an adapter that has more than low-rank pairs."""
    settings = read_json(folder / ADAPTER_CONFIG)
    if reason := beyond_pairs(settings) or _variant(settings):
        raise ModelError(
            f"adapter {folder} cannot be part of a stack: {reason}, so what it adds depends on more than its own low-rank product; "
            "merge it into its base (task merge) and train upon that"
        )


def _variant(settings: dict[str, Any]) -> str | None:
    """The setting by which peft computes an adapter otherwise than as scaled low-rank pairs, if one is on."""
    from peft import LoraConfig

    for field in fields(LoraConfig):
        value = settings.get(field.name)
        if (field.metadata.get("is_lora_variant") and value) or value in field.metadata.get("lora_variants", ()):
            return f"it is computed by a variant of LoRA ({field.name})"
    return "it adapts tensors that are no layers (target_parameters)" if settings.get("target_parameters") else None


def add_parents(model: Any, parents: list[Path], *, trainable: bool) -> None:
    """Load `parents` into a PeftModel beside its newest adapter, frozen and without dropout, and activate all of them.

    `trainable`: whether the newest one is. Raises ValueError for weights that do not fit their configuration.
    """
    if not parents:
        return
    from peft import PeftConfig

    names = [f"parent_{number}" for number in range(1, len(parents) + 1)]
    for name, folder in zip(names, parents, strict=True):
        config = PeftConfig.from_pretrained(str(folder))
        config.lora_dropout = 0.0  # what is frozen is part of what is learned upon, not itself learning
        config.inference_mode = True
        model.add_adapter(name, config)
        loaded = model.load_adapter(str(folder), name, torch_device=str(model.device))
        if differing := [*loaded.missing_keys, *loaded.unexpected_keys]:
            raise ValueError(f"{folder} lacks, or has besides, {', '.join(differing[:3])}")
    # Of PeftModel's own set_adapter, which takes a single name, this is the part that matters.
    model.base_model.set_adapter([*names, NEWEST], inference_mode=not trainable)
    model.set_requires_grad(names, False)
    model.parent_folders = parents  # for `copy_parents`: what is saved is what was read, to the byte


def copy_parents(model: Any, folder: Path) -> None:
    """Put the parents of a PeftModel's adapter into its saved `folder`."""
    for number, parent in enumerate(getattr(model, "parent_folders", []), 1):
        target = folder / PARENTS / str(number)
        target.mkdir(parents=True, exist_ok=True)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(parent / name, target / name)
