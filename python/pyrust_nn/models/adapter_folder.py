"""An adapter's folder: whether a folder is one, whether it is complete, and which base it names."""

from __future__ import annotations

from pathlib import Path

from pyrust_nn import InputError, ModelError
from pyrust_nn.models.model_folder import HUB_NAME, checked_model_folder, description, model_folder, read_json, refuse_pickle
from pyrust_nn.models.tiny import TINY_MODEL

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MLX_WEIGHTS = "adapters.safetensors"
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
    if not any((folder / name).is_file() for name in (ADAPTER_WEIGHTS, MLX_WEIGHTS)):
        refuse_pickle(path, folder)
        raise ModelError(f"adapter {folder} has no {ADAPTER_WEIGHTS}; copy it again or train it again")
    return folder


def adapter_base(path: str, base_model: str | None = None) -> str:
    """The model that an adapter is for: an absolute folder, `builtin:tiny` or a hub name. `base_model` wins over the recorded one.

    Raises ModelError if the adapter does not name it, or if it is a folder that no longer exists.
    """
    folder = model_folder(path)
    base = base_model or recorded_base(folder)
    if base is None:
        raise ModelError(f"{folder / ADAPTER_CONFIG} does not name the base model of the adapter; give it as base_model")
    if base == TINY_MODEL:
        return base
    if Path(base).is_dir():
        base = str(Path(base).absolute())
        if (Path(base) / ADAPTER_CONFIG).is_file():
            raise ModelError(f"the base of adapter {folder} is itself an adapter ({base}); merge that adapter first")
        return base
    if not Path(base).is_absolute() and HUB_NAME.fullmatch(base):
        return base
    raise ModelError(
        f"the base model of adapter {folder} is missing: {base} does not exist; give its new folder as base_model, "
        f'or set "base_model_name_or_path" in {folder / ADAPTER_CONFIG}'
    )


def whole_folder(model: str, base_model: str | None) -> Path:
    """The folder of a whole model, or of an adapter's base. Raises ModelError if it lacks configuration or weights."""
    return checked_model_folder(adapter_base(model, base_model) if is_adapter(model) else model)


def recorded_base(folder: Path) -> str | None:
    """The base model that an adapter's configuration names, by PEFT or mlx-lm; None if it names none."""
    config = read_json(folder / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path") or config.get("model")
    return base if isinstance(base, str) and base else None


def check_base_model(model: str, base_model: str | None) -> None:
    """Raise InputError if `base_model` is given for a whole model."""
    if base_model and not is_adapter(model):
        raise InputError(f"base_model is the base of an adapter, but {model} is a whole model; leave it out")
