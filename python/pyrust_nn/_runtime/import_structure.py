"""transformers' list of the names in its models, kept in the cache.

At each import transformers reads some 1,700 files of models, twice, to list their public names. That takes 0.6 s, and the list changes only
when another version is installed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pyrust_nn import _core
from pyrust_nn.files import new_cache_file, write_text

# What a group of modules needs, and the names in each of its modules.
Structure = dict[frozenset[str], dict[str, set[str]]]


class KeptImportStructure(importlib.abc.MetaPathFinder):
    """Has transformers take the list from the cache, or put it there, if its files are those of a package that is installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Find the module that makes the list, and nothing else."""
        if name != "transformers.utils.import_utils":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads the module, and replaces its function. Afterwards the module has its own loader."""

    def __init__(self, own: importlib.abc.Loader) -> None:
        self.own = own

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.own
        self.own.exec_module(module)
        models = Path(str(module.__file__)).parents[1] / "models"
        if (key := installed_as(models)) is not None:
            file = Path(_core.cache_folder()) / "imports" / f"transformers-{key}.json"
            module.define_import_structure = kept(module.define_import_structure, models, file)  # type: ignore[attr-defined]


def installed_as(models: Path) -> str | None:
    """A key of the folder's content, from the hashes that were recorded when the package was installed.

    None if it was not installed: whoever works on its files has them read each time.
    """
    try:
        package = importlib.metadata.distribution("transformers")
        record = package.read_text("RECORD") or ""
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None
    if "transformers/models/__init__.py," not in record or Path(str(package.locate_file("transformers/models"))) != models:
        return None
    return hashlib.sha256(f"{models}\n{models.stat().st_mtime_ns}\n{record}".encode()).hexdigest()[:16]


def kept(original: Callable[..., Structure], models: Path, file: Path) -> Callable[..., Structure]:
    """transformers' `define_import_structure`, which for the folder `models` reads `file`, or writes it."""

    @functools.wraps(original)
    def define_import_structure(module_path: str, prefix: str | None = None) -> Structure:
        if Path(module_path) not in (models, models / "__init__.py"):
            return original(module_path, prefix)
        start = f"{prefix}." if prefix else ""
        return {frozenset(needs): {start + name: set(names) for name, names in modules.items()} for needs, modules in groups()}

    @functools.cache
    def groups() -> list[Any]:
        _core.hold_cache_entry(file)
        try:
            return list(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            made = original(str(models))
            found = [[sorted(needs), {name: sorted(names) for name, names in modules.items()}] for needs, modules in made.items()]
            _write(file, found)
            return found

    return define_import_structure


def _write(file: Path, groups: list[Any]) -> None:
    try:
        with new_cache_file(file) as path:
            write_text(path, json.dumps(groups), sync=False)
    except OSError:
        pass  # The next import makes it again.
