"""Faster imports of a step's packages, with the same result."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

from pyrust_nn import InputError, _core
from pyrust_nn._runtime.import_structure import KeptImportStructure

FEW = 100
"""Imported modules whose objects are not worth freezing."""


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """While entered: no garbage collection, `torch.compile` waits for a first call, and the names in transformers come from the cache.

    torch and transformers make a million objects, none of them garbage, and a collection visits them all: this takes a
    second during the imports and a third of a second at each later collection. In the binary's own interpreter the
    imported objects are frozen, so later collections skip them. A host's Python has objects that may become garbage, so
    there nothing is frozen.
    """
    modules, enabled = len(sys.modules), gc.isenabled()
    gc.disable()
    finders = [deferred := DeferredCompile(), ImportStatus(), KeptImportStructure()]
    sys.meta_path[:0] = finders
    try:
        yield
    finally:
        for finder in finders:
            sys.meta_path.remove(finder)
        _core.status("")
        deferred.undo()
        if len(sys.modules) - modules > FEW and _core.owns_interpreter():
            gc.freeze()
        if enabled:
            gc.enable()


def check_installed(parameter: str, names: list[str]) -> None:
    """Check that the packages are installed that a parameter needs. Imports none of them.

    Raises InputError.
    """
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise InputError(f"{parameter}: {name} is not installed; install it into this Python environment (pip install {name})")


class ImportStatus(importlib.abc.MetaPathFinder):
    """Shows on a terminal which of the packages is being imported that take seconds."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Find nothing; show the name."""
        if name in ("torch", "transformers", "peft"):
            _core.status(f"loading {name}")


class DeferredCompile(importlib.abc.MetaPathFinder):
    """Makes `torch.compile` wait for the first call of the decorated function, from the import of bitsandbytes on.

    bitsandbytes decorates functions that few steps call, and torch takes half a second to find a compiler for them.
    """

    def __init__(self) -> None:
        """`torch.compile` stays as it is until bitsandbytes is imported."""
        self._torch: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Find nothing; notice the import of bitsandbytes."""
        if name == "bitsandbytes" and self._torch is None:
            import torch

            self._torch, self._compile = torch, torch.compile
            torch.compile = self.deferred_compile

    def undo(self) -> None:
        """Restore `torch.compile`."""
        if self._torch is not None:
            self._torch.compile = self._compile

    def deferred_compile(self, model: Any = None, **options: Any) -> Any:
        """`torch.compile` for functions, deferred to their first call."""
        if model is None:
            return lambda function: self.deferred_compile(function, **options)
        compiled: list[Any] = []

        @functools.wraps(model)
        def function(*args: Any, **kwargs: Any) -> Any:
            if not compiled:
                compiled.append(self._compile(model, **options))
            return compiled[0](*args, **kwargs)

        return function
