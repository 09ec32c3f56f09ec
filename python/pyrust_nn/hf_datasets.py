"""Reads Parquet, Arrow and folders of the `datasets` library by Arrow, and writes them as JSON lines for the core.

Only the columns that the core knows are read. Values are exact: numbers keep all digits, dates become ISO text, and what JSON
cannot hold is refused. Arrow gives each struct the fields of all rows; the nulls that it fills in are left out.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyrust_nn import InputError, _core
from pyrust_nn.files import new_cache_file, new_cache_folder, write_json_lines
from pyrust_nn.models.model_folder import first_line
from pyrust_nn.wording import counted

logger = logging.getLogger(__name__)

VERSION = 3  # of the conversion; part of the key in the cache
ROWS = 1024  # converted at a time


def json_lines(path: str | os.PathLike[str], split: str | None, known: Sequence[str]) -> tuple[str, list[str]]:
    """The path of a data set as JSON lines in the cache, converted unless it is there, and the columns that were not read.

    Columns whose names are in `known` are read, or all if there is none. Of a folder with several splits it is `split`, or
    `train`. The content of the files decides the key in the cache. Called by Rust. Raises InputError if it cannot be read.
    """
    files = data_files(Path(path), split)
    try:
        import pyarrow as arrow

        names = schema(files[0]).names
        wanted = [name for name in names if name in known] or names
        unused = [name for name in names if name not in wanted]
        key = hashlib.sha256(json.dumps([VERSION, wanted]).encode()).hexdigest()[:12]
        target = _core.cache_folder() / "json" / f"{_core.digest(files)}-{key}.jsonl"
        if not target.is_file():
            with new_cache_file(target) as partial:
                count = write_json_lines(partial, (item for file in files for item in items(file, wanted)))
            logger.info("%s: %s, read by Arrow", path, counted(count, "row"))
    except (arrow.ArrowException, OSError, KeyError, UnicodeError) as cause:
        raise InputError(f"{path} cannot be read by Arrow: {cause}; check the file, or export it as JSON lines") from cause
    return str(target), unused


def data_files(path: Path, split: str | None) -> list[Path]:
    """The files with the rows: the file itself, or those of a folder that `datasets` saved."""
    if path.is_dir():
        if (path / "dataset_dict.json").is_file():
            splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            if (split or "train") not in splits:
                which = f"no split {split}" if split else "no split train"
                raise InputError(
                    f"{path} has the splits {', '.join(splits)} and {which}; name one of them, as in {path}::split={splits[0]}"
                )
            path = path / (split or "train")
        elif split:
            raise InputError(f"{path} has a single split; remove split={split}")
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            files = [path / file["filename"] for file in state["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise InputError(f"{path} is not a complete folder of the datasets library: {cause}; save it again") from cause
    elif split:
        raise InputError(f"{path} is a file, which has no splits; remove split={split}")
    else:
        files = [path]
    for file in files:
        if not file.is_file():
            raise InputError(f"there is no data set {file}; check the path")
    if not files:
        raise InputError(f"{path} has no rows; save it again")
    return files


def kind(file: Path) -> str:
    """`parquet`, `file` (Arrow's file format, which Feather is too), `feather` (its first version) or `stream`, by the first bytes."""
    with file.open("rb") as opened:
        magic = opened.read(6)
    return {b"PAR1": "parquet", b"FEA1": "feather"}.get(magic[:4], "file" if magic == b"ARROW1" else "stream")


def schema(file: Path) -> Any:
    """The schema of a file."""
    import pyarrow as arrow
    import pyarrow.feather
    import pyarrow.parquet

    match kind(file):
        case "parquet":
            return arrow.parquet.read_schema(file)
        case "feather":
            return arrow.feather.read_table(file).schema
        case "file":
            with arrow.OSFile(str(file)) as opened, arrow.ipc.open_file(opened) as reader:
                return reader.schema
        case _:
            with arrow.OSFile(str(file)) as opened, arrow.ipc.open_stream(opened) as reader:
                return reader.schema


def batches(file: Path, columns: list[str]) -> Iterator[Any]:
    """The rows of a file in batches, with these columns only."""
    import pyarrow as arrow
    import pyarrow.feather
    import pyarrow.parquet

    names = schema(file).names
    options = arrow.ipc.IpcReadOptions(included_fields=sorted(names.index(name) for name in columns))
    match kind(file):
        case "parquet":
            with arrow.parquet.ParquetFile(file) as reader:
                yield from reader.iter_batches(ROWS, columns=columns)
        case "feather":
            yield from arrow.feather.read_table(file, columns=columns).to_batches(ROWS)
        case "file":
            with arrow.OSFile(str(file)) as opened, arrow.ipc.open_file(opened, options=options) as reader:
                for index in range(reader.num_record_batches):
                    yield from slices(reader.get_batch(index))
        case _:
            with arrow.OSFile(str(file)) as opened, arrow.ipc.open_stream(opened, options=options) as reader:
                for batch in reader:
                    yield from slices(batch)


def items(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Each row as a JSON object, without the columns that are null in it."""
    for batch in batches(file, columns):
        names = batch.schema.names
        values = [converted(batch.column(name), name) for name in names]
        for row in zip(*values, strict=True):
            yield {name: value for name, value in zip(names, row, strict=True) if value is not None}


def slices(batch: Any) -> Iterator[Any]:
    """Parts of at most ROWS rows."""
    for start in range(0, batch.num_rows, ROWS):
        yield batch.slice(start, ROWS)


def converted(column: Any, name: str) -> list[Any]:
    """The values of a column as JSON values."""
    while hasattr(column, "storage"):  # an extension type, whose Python values may be of any class
        column = column.storage
    convert = converter(column.type, name)
    if str(column.type) == "time64[ns]":
        return [None if value is None else nanosecond_time(value) for value in column.cast("int64").to_pylist()]
    try:
        values = column.to_pylist()
        return values if convert is None else [None if value is None else convert(value) for value in values]
    except InputError:
        raise
    except (ValueError, OverflowError) as cause:
        # Times beyond Python's, and structs whose fields have one name.
        raise InputError(f"column {name} of type {column.type} cannot be read: {cause}; convert it to text, or leave it out") from cause


Convert = Callable[[Any], Any]
TEXTS = ("string", "large_string", "string_view")


def nanosecond_time(value: int) -> str:
    """A time of day, given in nanoseconds, in ISO form. Python's own times have microseconds."""
    text = (datetime.datetime.min + datetime.timedelta(microseconds=value // 1000)).time().isoformat(timespec="microseconds")
    return text.removesuffix(".000000") if value % 1000 == 0 else f"{text}{value % 1000:03}"


def converter(kind: Any, path: str) -> Convert | None:
    """What turns Python's value of an Arrow type into a JSON value; None if it is one already. `path` names it in errors."""
    from pyarrow import types

    if getattr(kind, "storage_type", None) is not None:
        return converter(kind.storage_type, path)
    if types.is_struct(kind):
        fields = {field.name: converter(field.type, f"{path}.{field.name}") for field in kind}
        return lambda struct: {
            key: value if fields[key] is None else fields[key](value)  # type: ignore[misc]
            for key, value in struct.items()
            if value is not None
        }
    if types.is_map(kind):
        # A map's entries are its own, so its nulls were not filled in.
        inner = converter(kind.item_type, f"{path}[]") or same
        key_is_text, key_is_integer = str(kind.key_type) in TEXTS, types.is_integer(kind.key_type)
        if not key_is_text and not key_is_integer:
            return refused(path, kind)

        def entries(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
            found = {str(key): None if value is None else inner(value) for key, value in pairs}
            if len(found) < len(pairs):
                raise InputError(f"column {path} has a map with one key twice, which JSON cannot hold; remove one of its entries")
            return found

        return entries
    if any(check(kind) for check in (types.is_list, types.is_large_list, types.is_fixed_size_list)) or str(kind).startswith(
        ("list_view", "large_list_view")
    ):
        inner_list = converter(kind.value_type, f"{path}[]")
        return None if inner_list is None else lambda values: [None if value is None else inner_list(value) for value in values]
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return converter(kind.value_type, path)
    if types.is_floating(kind):
        return lambda value: finite(float(value), path)
    if types.is_decimal(kind):
        return exact_number
    if str(kind) == "time64[ns]":
        return refused(path, kind)  # inside another type: Python's value has no nanoseconds
    if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind):
        return lambda value: value.isoformat()
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_null(kind) or str(kind) in TEXTS:
        return None
    return refused(path, kind)


def refused(path: str, kind: Any) -> Convert:
    """What refuses every value of a type that JSON does not have."""

    def refuse(value: Any) -> Any:
        raise InputError(f"column {path} has the type {kind}, which JSON cannot hold; leave the column out, or convert it to text")

    return refuse


def same(value: Any) -> Any:
    """A value that needs no conversion."""
    return value


def finite(value: float, path: str) -> float:
    """A number that JSON can hold."""
    if not math.isfinite(value):
        raise InputError(f"column {path} has the number {value}, which JSON cannot hold; replace it, or leave the row out")
    return value


def exact_number(value: decimal.Decimal) -> Any:
    """A decimal as a number if that is exact, otherwise as text."""
    if value == value.to_integral_value() and value.as_tuple().exponent == 0 and abs(value) < 2**63:
        return int(value)
    number = float(value)
    return number if decimal.Decimal(repr(number)) == value else str(value)


def hub_revision(path: str, revision: str | None) -> str:
    """The commit of a data set of the hub at `revision`, or at its newest. Called by Rust. Raises InputError if there is none."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(path, revision=revision).sha
    except Exception as cause:
        raise _not_on_hub(path, cause) from cause
    if commit is None:
        raise InputError(f"the hub names no revision of data set {path}; give one, as in {path}::revision=main")
    return commit


def _not_on_hub(path: str, cause: Exception) -> InputError:
    return InputError(
        f"there is no file or folder {path}, and no data set of the Hugging Face hub could be loaded: {first_line(cause)}; check the name"
    )


def hub_dataset(path: str, name: str | None, split: str | None, revision: str | None) -> str:
    """A folder in the cache with a data set of the hub, downloaded unless it is there. Called by Rust.

    Raises InputError if there is none, or if it has several splits and none is named.
    """
    commit = revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else hub_revision(path, revision)
    key = hashlib.sha256(json.dumps([path, commit, name, split]).encode()).hexdigest()[:24]
    folder: Path = _core.cache_folder() / "hub" / key
    if _core.hold_cache_entry(folder):
        return str(folder)
    import datasets

    downloads = _core.cache_folder() / "hub" / "downloads"
    while not _core.hold_cache_entry(downloads):
        downloads.mkdir(parents=True, exist_ok=True)

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(path, name, split=split, revision=commit, cache_dir=str(downloads))
    except Exception as cause:
        raise _not_on_hub(path, cause) from cause
    if isinstance(rows, datasets.DatasetDict):
        if "train" not in rows:
            splits = ", ".join(rows)
            raise InputError(f"{path} has the splits {splits} and no train; name one, as in {path}::split={next(iter(rows))}")
        rows = rows["train"]
    try:
        with new_cache_folder(folder) as partial:
            rows.save_to_disk(str(partial))
    finally:
        if shown:
            datasets.enable_progress_bars()
    _core.hold_cache_entry(folder)
    return str(folder)
