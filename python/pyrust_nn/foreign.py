"""Data sets in the forms of the `datasets` library (Parquet, Arrow, a saved folder), as JSON lines for the core to read."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from pyrust_nn import InputError, _core

logger = logging.getLogger(__name__)


def json_lines(path: str | os.PathLike[str]) -> str:
    """The data set at `path` as a file of JSON lines in the cache, made where it is not there yet.

    A folder of several splits gives its `train`. Raises InputError if `datasets` cannot read it.
    """
    source = Path(path)
    files = sorted(file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
    if not all(file.is_file() for file in files):
        raise InputError(f"there is no data set {path}; check the path")
    target = _core.cache_folder() / "json" / f"{_core.digest(files)}.jsonl"
    if target.is_file():
        return str(target)

    import datasets

    try:
        if source.is_dir():
            rows = datasets.load_from_disk(str(source))
        elif source.suffix.lower() == ".parquet":
            rows = datasets.Dataset.from_parquet(str(source), cache_dir=tempfile.gettempdir(), keep_in_memory=True)
        else:
            rows = datasets.Dataset.from_file(str(source))
    except Exception as cause:
        raise InputError(f"{path} cannot be read by the datasets library: {cause}") from cause
    if isinstance(rows, datasets.DatasetDict):
        if "train" not in rows:
            raise InputError(f"{path} has the splits {', '.join(rows)} and no train; give the folder of one of them")
        rows = rows["train"]

    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".json-", dir=target.parent))
    try:
        rows.to_json(str(beside / "rows.jsonl"), orient="records", lines=True, force_ascii=False)
        os.replace(beside / "rows.jsonl", target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    logger.info("%s: %d rows, read by the datasets library", path, len(rows))
    return str(target)
