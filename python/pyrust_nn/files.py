"""Every file that this package writes, so that a crash leaves no half-written one.

Three ways: a file is written beside its place, synced and renamed (`write_text`, `write_json`, `write_bytes`); a folder
is made beside its place and renamed when it is complete (`atomic_folder`, `new_cache_folder`); a log of answers grows line by
line (`open_json_lines`). What other libraries write goes into a folder that is renamed afterwards.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pyrust_nn import _core

LITTLE_SPACE = 1 << 16
"""Bytes. With less left on the disk, a failed write is taken for one that the full disk stopped."""


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder. It is synced and renamed to `folder` if the block succeeds, and removed if it fails.

    It replaces the `folder` of an attempt that ended after this, without a summary: what has none is not done.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with removed_on_failure(partial, folder):
        yield partial
        if folder.is_dir():
            shutil.rmtree(folder)
        _core.publish_folder(str(partial), str(folder))


@contextmanager
def removed_on_failure(partial: Path, target: Path) -> Iterator[None]:
    """Remove the unfinished folder `partial` if the block fails. On a full disk this frees the space that the summary needs.

    Raises StorageError, naming `target`, if the disk, the quota or the limit of a file's size was exhausted. Libraries report
    that in different ways: torch's writer with a RuntimeError that has no error number.
    """
    try:
        yield
    except BaseException as error:
        cause = exhausted(error, partial)
        shutil.rmtree(partial, ignore_errors=True)
        if cause is None or isinstance(error, _core.StorageError):
            raise
        raise _core.StorageError(f"{target} cannot be written: {cause}; free some space, or choose another disk by runs_dir") from error


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Raise StorageError if `what`, of `needed` bytes, does not fit on the disk of `folder`: sooner than after long work."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _core.StorageError(
            f"{what} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on the disk of {folder}; "
            "free some space, or choose another disk by runs_dir"
        )


def exhausted(error: BaseException, folder: Path) -> str | None:
    """What was exhausted while writing to `folder`: disk, quota or the limit of a file's size. None: the error has another cause."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        for number in _core.EXHAUSTED:
            text = os.strerror(number)
            if (isinstance(link, OSError) and link.errno == number) or text in str(link):
                return text
        link = link.__cause__ or link.__context__
    if isinstance(error, Exception) and folder.is_dir() and shutil.disk_usage(folder).free < LITTLE_SPACE:
        return os.strerror(errno.ENOSPC)
    return None


@contextmanager
def new_cache_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder`, for content that every process would make equal.

    Several processes may do so at once: the first rename wins, and the others drop their copy. Raises OSError if the
    parent folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        if os.environ.get("PYRUST_NN_SHARED") == "1":
            temporary.chmod(0o755)  # mkdtemp's 0o700 would keep out other users
        try:
            temporary.rename(folder)
        except OSError:
            # A folder cannot be renamed onto one that is not empty: another process was first.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_cache_file(path: Path) -> Iterator[Path]:
    """Yield a path for another library to write to; the file is renamed to `path` if the block succeeds.

    It is not synced: what is in the cache can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=path.parent))
    try:
        yield temporary / path.name
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` beside `path` and rename it: whoever opens `path` finds the old content or the new one, complete.

    sync: wait until the data is on the disk. Not needed inside a folder that `atomic_folder` publishes, and for temporary files.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, path)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """`write_bytes` for text, as UTF-8."""
    write_bytes(path, text.encode("utf-8"), sync=sync)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """`write_bytes` for a JSON document, indented by two spaces."""
    write_text(path, json.dumps(value, indent=2) + "\n", sync=sync)


@contextmanager
def open_json_lines(path: Path) -> Iterator[Callable[[Any], None]]:
    """Empty the file and yield a function that appends a value as one line of JSON.

    Each line is flushed, so it survives the end of the process.
    """
    with path.open("w", encoding="utf-8") as file:

        def append(value: Any) -> None:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
            file.flush()

        yield append


def write_json_lines(path: Path, values: Iterable[Any]) -> int:
    """Write each value as one line of JSON, into a file that `new_cache_file` renames. Returns their number.

    Raises ValueError for a number that JSON cannot hold.
    """
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def append_file(path: Path) -> IO[bytes]:
    """Open a log for another process to append to."""
    return path.open("ab")


def rename_file(path: Path, target: Path) -> Path:
    """Rename a file within its folder. The new path."""
    return path.rename(target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, into a folder that is published afterwards."""
    shutil.copyfile(source, target)


def replace_symlink(link: Path, target: str) -> None:
    """Make `link` point to `target`, replacing an earlier link or file in one rename."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    os.replace(partial, link)


def folder_size(folder: Path) -> int:
    """Bytes in all files below `folder`."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
