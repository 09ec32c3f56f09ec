"""Whole folders: made beside their place, brought to disk, renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyrust_nn import _core


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name `folder` when the block ends well, and goes away when it does not."""
    made = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        _core.publish_folder(str(made), str(folder))
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def folder_size(folder: Path) -> int:
    """Bytes in all files below `folder`."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
