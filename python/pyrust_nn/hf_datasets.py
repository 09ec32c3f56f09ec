"""Converts data sets in formats of the `datasets` library (Parquet, Arrow, a saved folder) to JSON lines, which the core reads."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from pyrust_nn import InputError, _core
from pyrust_nn.files import new_cache_file

logger = logging.getLogger(__name__)


def json_lines(path: str | os.PathLike[str]) -> str:
    """The path of a data set as JSON lines in the cache, converted unless it is there already. Called by Rust.

    Of a folder with several splits it is `train`. Raises InputError if `datasets` cannot read it.
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
        raise InputError(f"{path} cannot be read by the datasets library: {cause}; check the file, or export it as JSON lines") from cause
    if isinstance(rows, datasets.DatasetDict):
        if "train" not in rows:
            raise InputError(f"{path} has the splits {', '.join(rows)} but no train; give the folder of one of them")
        rows = rows["train"]

    with new_cache_file(target) as partial:
        rows.to_json(str(partial), orient="records", lines=True, force_ascii=False)
    logger.info("%s: %d rows, read by the datasets library", path, len(rows))
    return str(target)
