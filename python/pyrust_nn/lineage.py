"""Which model an adapter belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pyrust_nn.sources import TINY, model_folder


def same_weights(one: str, other: str) -> bool:
    """Whether two models (folders, `builtin:tiny`, hub names) are the same: by name, by place, or by their bytes."""
    if one == other:
        return True
    folders = [local_folder(model) for model in (one, other)]
    if folders[0] is None or folders[1] is None:
        return False
    if folders[0].resolve() == folders[1].resolve():
        return True
    hashes = [weights_hash(folder) for folder in folders if folder]
    return hashes[0] is not None and hashes[0] == hashes[1]


def local_folder(model: str) -> Path | None:
    """Where a model's files lie on this machine; None for a hub name that was never downloaded."""
    if model == TINY or Path(model).is_dir():
        return model_folder(model)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def weights_hash(folder: Path) -> str | None:
    """SHA-256 over the bytes of a folder's safetensors files in the order of their names; None where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest() if files else None
