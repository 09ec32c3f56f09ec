"""Stacked adapters: an adapter that was trained beside frozen parents and needs them.

An adapter's folder holds its parents in `parents/1`, `parents/2` and so on, oldest first, each as peft's files;
lineage.json lists them under `stack`. In memory all of them are active adapters of one PeftModel. Every adapter of a stack
consists of low-rank pairs only, so that a stack can always be merged and flattened.

A parent stays a separate adapter. It is copied into the new adapter's folder and loaded without dropout. Merging it
into a base in bf16 would lose part of its change, and a reference to another folder would break if that folder is
moved. DoRA is excluded, because its result depends on the base, and several of them do not add up to one adapter.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from pyrust_nn import InputError, ModelError
from pyrust_nn.files import copy_file
from pyrust_nn.models.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LINEAGE, checked_adapter_folder
from pyrust_nn.models.adapters import attach_adapter, read_adapter
from pyrust_nn.models.lora_pairs import beyond_low_rank
from pyrust_nn.models.model_folder import read_json

PARENTS = "parents"
NEWEST_ADAPTER = "default"
"""peft's name of the adapter in the folder itself. The parents are named parent_1, parent_2 and so on."""


def parent_folders(folder: Path) -> list[Path]:
    """The folders of an adapter's parents, oldest first. An adapter that is not stacked has none.

    Raises ModelError if a parent is missing, and InputError if an adapter of the stack has more than low-rank pairs.
    """
    recorded = read_json(folder / LINEAGE).get("stack") or [] if (folder / LINEAGE).is_file() else []
    for parent in recorded:
        if not (folder / parent["folder"] / ADAPTER_WEIGHTS).is_file():
            raise ModelError(
                f"adapter {folder} was trained on top of {parent['folder']}, which is missing; copy the folder with all its subfolders"
            )
    found = [path for path in (folder / PARENTS).glob("*") if path.name.isdecimal()]
    parents = [checked_adapter_folder(str(path)) for path in sorted(found, key=lambda path: int(path.name))]
    for member in [*parents, folder] if parents else []:
        check_stackable(member)
    return parents


def check_stackable(folder: Path) -> None:
    """Raise InputError for an adapter that has more than low-rank pairs."""
    settings = read_adapter(folder, None).settings
    if reason := beyond_low_rank(settings) or _variant(settings):
        raise InputError(
            f"adapter {folder} cannot be part of a stack: {reason}, so what it adds depends on more than its own low-rank product; "
            "merge it into its base (task merge) and train on the result"
        )


def _variant(settings: dict[str, Any]) -> str | None:
    """The setting that makes peft compute an adapter differently from scaled low-rank pairs; None if there is none."""
    from peft import LoraConfig

    for field in fields(LoraConfig):
        value = settings.get(field.name)
        if (field.metadata.get("is_lora_variant") and value) or value in field.metadata.get("lora_variants", ()):
            return f"it is computed by a variant of LoRA ({field.name})"
    return "it adapts parameters instead of layers (target_parameters)" if settings.get("target_parameters") else None


def add_parents(model: Any, parents: list[Path], base: Path, *, trainable: bool) -> None:
    """Load `parents` into a PeftModel beside its newest adapter, frozen and without dropout, and activate all of them.

    base: the folder of the base model. trainable: whether the newest adapter is trained. Raises InputError for weights that do
    not fit.
    """
    if not parents:
        return
    names = [f"parent_{number}" for number in range(1, len(parents) + 1)]
    adapters = [read_adapter(folder, base) for folder in parents]
    for name, adapter in zip(names, adapters, strict=True):
        attach_adapter(model, adapter, name=name, dropout=0.0)  # dropout is for the weights that are trained
    # The relevant part of PeftModel.set_adapter, which takes a single name.
    model.base_model.set_adapter([*names, NEWEST_ADAPTER], inference_mode=not trainable)
    model.set_requires_grad(names, False)
    model.parent_adapters = adapters  # for `copy_parents`


def copy_parents(model: Any, folder: Path) -> None:
    """Copy the parents of a PeftModel's adapter into its saved `folder`, byte for byte if they are in PEFT's form."""
    for number, parent in enumerate(getattr(model, "parent_adapters", []), 1):
        target = folder / PARENTS / str(number)
        target.mkdir(parents=True, exist_ok=True)
        if parent.converted:
            parent.write(target)
            continue
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            copy_file(parent.folder / name, target / name)
