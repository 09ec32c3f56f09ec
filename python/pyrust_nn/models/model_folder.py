"""Resolves a model's name to a local folder that is safe to load.

A name is an existing folder, `builtin:tiny`, or a name on the Hugging Face hub, which becomes the folder of its snapshot
in the hub's cache. Only configuration, tokenizer and safetensors files are downloaded or read: pickled weights and remote
code can run arbitrary code when they are loaded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyrust_nn import ModelError
from pyrust_nn._runtime.environment import MODEL_SOURCES, environment_variables, step_environment
from pyrust_nn.models.tiny import TINY_MODEL, tiny_model_folder

logger = logging.getLogger(__name__)

PICKLE_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

_DOWNLOADED_FILES = ["*.json", "*.jinja", "*.txt", "*.safetensors"]
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_offline() -> bool:
    """Whether the network must not be used: HF_HUB_OFFLINE is set, as `--offline` does while a step runs."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def model_folder(model: str) -> Path:
    """The absolute folder of a model or adapter. A hub name is downloaded if necessary.

    Raises ModelError if there is no such model, or if it would have to be downloaded while offline.
    """
    if model == TINY_MODEL:
        return _record(model, tiny_model_folder())
    folder = Path(model)
    if folder.is_dir():
        return folder.absolute()
    if folder.is_file():
        raise ModelError(f"{model} is a file; give the folder that holds config.json and the weights")
    if folder.is_absolute() or not HUB_NAME.fullmatch(model):
        raise ModelError(f"there is no model folder {model}; check the path, or give a hub name such as Qwen/Qwen3-0.6B")
    return _record(model, _snapshot(model))


def local_folder(model: str) -> Path | None:
    """The local folder of a model; None for a hub name that was never downloaded."""
    if model == TINY_MODEL or Path(model).is_dir():
        return model_folder(model)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def resolved_folder(model: str, offline: bool) -> str:
    """`model_folder`, which uses no network if `offline`. Called by Rust."""
    with environment_variables({"HF_HUB_OFFLINE": "1"} if offline else {}):
        return str(model_folder(model))


def _record(model: str, folder: Path) -> Path:
    """Record for the session from which folder this model was read."""
    MODEL_SOURCES[model] = str(folder)
    return folder


def _snapshot(name: str) -> Path:
    """The folder of a hub model in the hub's cache."""
    from huggingface_hub import snapshot_download

    offline = is_offline()
    with _hub_errors(name, offline):
        # Subfolders hold other formats of the same weights (onnx, original).
        return Path(snapshot_download(name, allow_patterns=_DOWNLOADED_FILES, ignore_patterns=["*/*"], local_files_only=offline))


@contextlib.contextmanager
def _hub_errors(name: str, offline: bool) -> Iterator[None]:
    """Raise the hub's errors as ModelError."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError as cause:
        raise ModelError(f"model {name} needs permission: accept its terms on the hub, then log in with `hf auth login`") from cause
    except RepositoryNotFoundError:
        raise ModelError(f"there is no model {name}, neither a local folder nor a hub model that you may see; check the spelling") from None
    except LocalEntryNotFoundError:
        if offline:
            raise ModelError(
                f"model {name} is not downloaded, and offline forbids the download; run once without offline, or give the model's folder"
            ) from None
        raise ModelError(f"model {name} cannot be downloaded: the hub is not reachable; check the network, or give a folder") from None
    except HFValidationError as cause:
        raise ModelError(f"there is no model {name}, neither a local folder nor a name that the hub allows; check the spelling") from cause
    except (HfHubHTTPError, OSError) as cause:
        raise ModelError(f"model {name} could not be downloaded: {cause}; try again, or give a folder") from cause
    except Exception as cause:
        # Of the HTTP library: httpx's or requests' errors of a connection.
        if not type(cause).__module__.startswith(("httpx", "requests")):
            raise
        raise ModelError(f"model {name} cannot be downloaded: the hub is not reachable; check the network, or give a folder") from cause


_TIMEOUT_S = 10
_FOUND: set[str] = set()
"""Names that the hub has, so that the steps of a pipeline ask once."""


def check_hub_model(name: str, offline: bool) -> None:
    """Raise ModelError if a hub model is neither downloaded nor, unless `offline`, on the hub. Downloads nothing. Called by Rust."""
    if name in _FOUND:
        return
    with step_environment(offline):
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        denied = offline or is_offline()
        with _hub_errors(name, denied):
            try:
                snapshot_download(name, allow_patterns=_DOWNLOADED_FILES, ignore_patterns=["*/*"], local_files_only=True)
            except LocalEntryNotFoundError:
                if denied:
                    raise
                HfApi().model_info(name, revision="main", timeout=_TIMEOUT_S)
    _FOUND.add(name)


def checked_model_folder(model: str) -> Path:
    """`model_folder` for a whole model, not an adapter. Raises ModelError if config.json or a safetensors file is missing."""
    folder = model_folder(model)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{description(model, folder)} has no config.json, so it is not a model; give the folder that has one")
    _check_weights(model, folder)
    return folder


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from a model's folder: the single file, else those of the index.

    A folder with neither has none, unless its files have other names.
    """
    if (folder / WEIGHTS).is_file():
        if (folder / INDEX).is_file():
            logger.info("%s has %s and %s; the single file is used, as by transformers", folder, WEIGHTS, INDEX)
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / shard for shard in sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))]
    return sorted(folder.glob("*.safetensors"))


def _check_weights(model: str, folder: Path) -> None:
    files = weight_files(folder)
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"{description(model, folder)} is incomplete: {INDEX} names {', '.join(missing)}, which does not exist; "
            "copy or download the model again"
        )
    if not files:
        refuse_pickle(model, folder)
        raise ModelError(
            f"{description(model, folder)} has no safetensors weights, and no other format is read; "
            "copy or download the model again, or use a release that has them"
        )


def refuse_pickle(model: str, folder: Path) -> None:
    """Raise ModelError if a folder has its weights only as pickle files."""
    pickles = {file.name for pattern in PICKLE_FILES for file in folder.glob(pattern)} - {"training_args.bin"}
    if pickles:
        raise ModelError(
            f"{description(model, folder)} has its weights only as pickle files ({', '.join(sorted(pickles))}), "
            "which can run code when they are loaded; use a release with safetensors, or convert it on a machine where you trust it "
            "(load it with transformers and call save_pretrained)"
        )


def quantization(folder: Path) -> dict[str, Any] | None:
    """The `quantization_config` of a model folder, or None if its weights are not quantized."""
    return read_json(folder / "config.json").get("quantization_config")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model's folder. Raises ModelError if it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise ModelError(f"{path} cannot be read: {cause.strerror}; copy or download the model again") from cause
    except ValueError as cause:
        raise ModelError(f"{path} is not valid JSON ({cause}); copy or download the model again") from cause
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, not a JSON object; copy or download the model again")
    return value


def description(model: str, folder: Path) -> str:
    """The model as messages name it: a hub name says more than a folder of the cache."""
    return f"model folder {folder}" if Path(model).is_dir() else f"model {model}"


def first_line(cause: BaseException) -> str:
    """An exception's first line: libraries add pages to it."""
    text = str(cause).strip()
    return text.splitlines()[0] if text else type(cause).__name__
