"""How a step's packages are imported: quickly, and with the same effect."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


@contextlib.contextmanager
def quick_imports(own_interpreter: bool) -> Iterator[None]:
    """For the time of importing: no collecting of garbage, nothing compiled that is not called, nothing loaded that is not used.

    torch and transformers make a million objects, none of them garbage, and a collection looks through them all: a
    second while they are imported, and a third of one each time after. Where the interpreter is ours alone, what was
    imported is kept out of later collections; in somebody's Python, whose objects may become garbage yet, it is not.
    """
    had_torch, enabled = "torch" in sys.modules, gc.isenabled()
    gc.disable()
    late = LateCompiling()
    finders = [late, LateDatasets()] if own_interpreter else [late]
    sys.meta_path[:0] = finders
    try:
        yield
    finally:
        for finder in finders:
            sys.meta_path.remove(finder)
        late.undo()
        if own_interpreter and "torch" in sys.modules and not had_torch:
            gc.freeze()
        if enabled:
            gc.enable()


class LateDatasets(importlib.abc.MetaPathFinder):
    """Has `datasets` load at its first use: with pandas it takes a quarter of a second.

    transformers' Trainer imports it in order to recognize its data sets, and ours are none of them. Until Python 3.12 two
    threads that use it first at once could load it twice, so that somebody's own interpreter loads it as ever.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The package's own specification, its loader one that waits."""
        spec = PathFinder.find_spec(name, path) if name == "datasets" else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


class LateCompiling(importlib.abc.MetaPathFinder):
    """Has `torch.compile` wait for the first call of what it decorates, from the import of bitsandbytes on.

    bitsandbytes decorates functions that few steps call, and torch takes half a second to find a compiler for them.
    """

    def __init__(self) -> None:
        """Nothing is changed yet."""
        self._torch: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Finds nothing, but sees who is imported."""
        if name == "bitsandbytes" and self._torch is None:
            import torch

            self._torch, self._compile = torch, torch.compile
            torch.compile = self.compile_later

    def undo(self) -> None:
        """Put `torch.compile` back."""
        if self._torch is not None:
            self._torch.compile = self._compile

    def compile_later(self, model: Any = None, **options: Any) -> Any:
        """As `torch.compile`, for functions."""
        if model is None:
            return lambda function: self.compile_later(function, **options)
        compiled: list[Any] = []

        @functools.wraps(model)
        def function(*args: Any, **kwargs: Any) -> Any:
            if not compiled:
                compiled.append(self._compile(model, **options))
            return compiled[0](*args, **kwargs)

        return function
