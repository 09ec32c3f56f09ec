"""How a step's packages are imported: quickly, and with the same effect."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.abc
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def quick_imports(own_interpreter: bool) -> Iterator[None]:
    """For the time of importing: no collecting of garbage, and nothing compiled that is not called.

    torch and transformers make a million objects, none of them garbage, and a collection looks through them all: a
    second while they are imported, and a third of one each time after. Where the interpreter is ours alone, what was
    imported is kept out of later collections; in somebody's Python, whose objects may become garbage yet, it is not.
    """
    had_torch, enabled = "torch" in sys.modules, gc.isenabled()
    gc.disable()
    late = LateCompiling()
    sys.meta_path.insert(0, late)
    try:
        yield
    finally:
        sys.meta_path.remove(late)
        late.undo()
        if own_interpreter and "torch" in sys.modules and not had_torch:
            gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def datasets_later() -> Iterator[None]:
    """While entered, who imports `datasets` gets a stand-in for it; afterwards the package is imported as ever.

    transformers' Trainer imports it in order to recognize its data sets, and ours are none of them: with pandas it takes
    a quarter of a second and 80 MB.
    """
    spec = PathFinder.find_spec("datasets")
    if spec is None or "datasets" in sys.modules:
        yield
        return
    stand_in = StandIn("datasets")
    stand_in.__spec__ = spec  # by which others see that it is installed
    sys.modules["datasets"] = stand_in
    try:
        yield
    finally:
        stand_in._leave()


class StandIn(ModuleType):
    """A module that is imported at the first look into it."""

    def _leave(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        """Whatever the module has."""
        self._leave()
        return getattr(importlib.import_module(self.__name__), name)


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
