"""From a model's name to a folder on this machine whose files can be trusted to load.

A name is an existing folder, `builtin:tiny` or a name on the Hugging Face hub; a hub name becomes the folder of its
snapshot in the hub's cache. Only configuration, tokenizer and safetensors files are ever fetched or read: pickled
weights can run code when they are loaded, and remote code is code.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from pyrust_nn import ModelError
from pyrust_nn._host import SOURCES
from pyrust_nn.tiny import NAME as TINY
from pyrust_nn.tiny import tiny_model_folder

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LINEAGE = "lineage.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

_FETCHED = ["*.json", "*.jinja", "*.txt", "*.safetensors"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_offline() -> bool:
    """Whether nothing may use the network: HF_HUB_OFFLINE is set, as `--offline` does for the time of a step."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def model_folder(model: str) -> Path:
    """The folder of a model or adapter. A hub name is downloaded where that is needed and allowed.

    Raises ModelError if there is no such model, or it would have to be downloaded while offline.
    """
    if model == TINY:
        return _noted(model, tiny_model_folder())
    folder = Path(model)
    if folder.is_dir():
        return folder.absolute()
    if folder.is_file():
        raise ModelError(f"{model} is a file; a model is the folder that holds config.json and the weights")
    if folder.is_absolute() or not _HUB_NAME.fullmatch(model):
        raise ModelError(f"there is no model folder {model}; check it, or give a hub name such as Qwen/Qwen3-0.6B")
    return _noted(model, _snapshot(model))


def tokenizer_folder(model: str, offline: bool) -> str:
    """The folder with the tokenizer of a model, or of an adapter's base where it has none of its own. For Rust."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        folder = model_folder(model)
        if is_adapter(model) and not (folder / "tokenizer.json").is_file():
            folder = model_folder(adapter_base(model))
        return str(folder)
    finally:
        if before is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _noted(model: str, folder: Path) -> Path:
    """Tell the session where a model without a folder of its own was read from."""
    SOURCES[model] = str(folder)
    return folder


def _snapshot(name: str) -> Path:
    """The folder of a hub model in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    offline = is_offline()
    try:
        # Subfolders hold other formats of the same weights (onnx, original).
        folder = snapshot_download(name, allow_patterns=_FETCHED, ignore_patterns=["*/*"], local_files_only=offline)
    except GatedRepoError as cause:
        raise ModelError(f"model {name} needs permission: accept its terms on the hub, then log in with `hf auth login`") from cause
    except RepositoryNotFoundError as cause:
        raise ModelError(
            f"there is no model {name}, neither a folder here nor a name that the hub shows you; check the spelling"
        ) from cause
    except LocalEntryNotFoundError as cause:
        if offline:
            raise ModelError(
                f"model {name} has not been downloaded, and --offline forbids it; run once without --offline, or give the model's folder"
            ) from cause
        raise ModelError(f"model {name} cannot be reached on the hub; check the network, or give a folder") from cause
    except (HfHubHTTPError, OSError) as cause:
        raise ModelError(f"model {name} could not be downloaded: {cause}; try again, or give a folder") from cause
    return Path(folder)


def checked_model_folder(model: str) -> Path:
    """As `model_folder`, for a whole model (not an adapter): with config.json and all its safetensors files."""
    folder = model_folder(model)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{_shown(model, folder)} has no config.json, so it is no model; give the folder that has one")
    _check_weights(model, folder)
    return folder


def _check_weights(model: str, folder: Path) -> None:
    if (index := folder / "model.safetensors.index.json").is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise ModelError(
                f"{_shown(model, folder)} is incomplete: {', '.join(missing)} is named in {index.name} and not there; "
                "copy or download the model again"
            )
    elif not any(folder.glob("*.safetensors")):
        _refuse_pickle(model, folder)
        raise ModelError(
            f"{_shown(model, folder)} has no weights as safetensors (others are never read); "
            "copy or download the model again, or take a release that has them"
        )


def _refuse_pickle(model: str, folder: Path) -> None:
    pickles = {file.name for pattern in PICKLES for file in folder.glob(pattern)} - {"training_args.bin"}
    if pickles:
        raise ModelError(
            f"{_shown(model, folder)} has its weights only as pickle ({', '.join(sorted(pickles))}), "
            "which can run code when it is loaded; take a release with safetensors, or convert it where you trust it "
            "(load it with transformers and call save_pretrained)"
        )


def is_adapter(path: str) -> bool:
    """Whether this is an adapter (LoRA), not a whole model. A hub name is downloaded for this where needed."""
    return path != TINY and (model_folder(path) / ADAPTER_CONFIG).is_file()


def checked_adapter_folder(path: str) -> Path:
    """The folder of an adapter, with its configuration and its weights as safetensors."""
    folder = model_folder(path)
    if not (folder / ADAPTER_CONFIG).is_file():
        kind = "is a whole model" if (folder / "config.json").is_file() else f"has no {ADAPTER_CONFIG}"
        raise ModelError(f"{_shown(path, folder)} {kind}; give an adapter, such as finetune_lora makes")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        _refuse_pickle(path, folder)
        raise ModelError(f"adapter {folder} has no {ADAPTER_WEIGHTS}; copy it again or train it again")
    return folder


def adapter_base(path: str) -> str:
    """The model that an adapter was trained on: an absolute folder, `builtin:tiny` or a hub name.

    Raises ModelError if the adapter does not say, or its base is a folder that is no longer there.
    """
    config = model_folder(path) / ADAPTER_CONFIG
    base = read_json(config).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f'{config} does not name its base model; write it there as "base_model_name_or_path"')
    if base == TINY:
        return base
    if Path(base).is_dir():
        base = str(Path(base).absolute())
        if (Path(base) / ADAPTER_CONFIG).is_file():
            raise ModelError(f"the base of adapter {config.parent} is itself an adapter ({base}); merge that one first")
        return base
    if not Path(base).is_absolute() and _HUB_NAME.fullmatch(base):
        return base
    raise ModelError(
        f"the base model of adapter {config.parent} is gone: {base} does not exist; "
        f'put it back, or write its new folder as "base_model_name_or_path" into {config}'
    )


def quantization(folder: Path) -> dict[str, Any] | None:
    """The `quantization_config` of a model folder, or None where its weights are plain."""
    return read_json(folder / "config.json").get("quantization_config")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's folder."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise ModelError(f"{path} cannot be read: {cause.strerror}") from cause
    except ValueError as cause:
        raise ModelError(f"{path} is not valid JSON ({cause}); copy or download the model again") from cause
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold an object, not a {type(value).__name__}; copy or download the model again")
    return value


def _shown(model: str, folder: Path) -> str:
    """How a message calls the model: a hub name says more than the cache's folder."""
    return f"model folder {folder}" if Path(model).is_dir() else f"model {model}"
