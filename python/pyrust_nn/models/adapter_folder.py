"""An adapter's folder: whether a folder is one, whether it is complete, and which base it names."""

from __future__ import annotations

from pathlib import Path

from pyrust_nn import ModelError
from pyrust_nn.models.model_folder import HUB_NAME, description, model_folder, read_json, refuse_pickle
from pyrust_nn.models.tiny import TINY_MODEL

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LINEAGE = "lineage.json"


def is_adapter(path: str) -> bool:
    """Whether this is an adapter, not a whole model. A hub name is downloaded if necessary."""
    return path != TINY_MODEL and (model_folder(path) / ADAPTER_CONFIG).is_file()


def checked_adapter_folder(path: str) -> Path:
    """`model_folder` for an adapter. Raises ModelError if its configuration or its safetensors weights are missing."""
    folder = model_folder(path)
    if not (folder / ADAPTER_CONFIG).is_file():
        kind = "is a whole model" if (folder / "config.json").is_file() else f"has no {ADAPTER_CONFIG}"
        raise ModelError(f"{description(path, folder)} {kind}; give an adapter, such as the output of finetune_lora")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        refuse_pickle(path, folder)
        raise ModelError(f"adapter {folder} has no {ADAPTER_WEIGHTS}; copy it again or train it again")
    return folder


def adapter_base(path: str) -> str:
    """The model that an adapter was trained on: an absolute folder, `builtin:tiny` or a hub name.

    Raises ModelError if the adapter does not name it, or if it is a folder that no longer exists.
    """
    config = model_folder(path) / ADAPTER_CONFIG
    base = read_json(config).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f'{config} does not name its base model; add it there as "base_model_name_or_path"')
    if base == TINY_MODEL:
        return base
    if Path(base).is_dir():
        base = str(Path(base).absolute())
        if (Path(base) / ADAPTER_CONFIG).is_file():
            raise ModelError(f"the base of adapter {config.parent} is itself an adapter ({base}); merge that adapter first")
        return base
    if not Path(base).is_absolute() and HUB_NAME.fullmatch(base):
        return base
    raise ModelError(
        f"the base model of adapter {config.parent} is missing: {base} does not exist; "
        f'restore it, or set "base_model_name_or_path" in {config} to its new folder'
    )
