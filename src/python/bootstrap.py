"""Run once when the embedded interpreter has started: MODULES is {name: (path, text, is_package)}, EXECUTABLE the environment's python."""

import importlib.abc
import importlib.util
import multiprocessing
import sys

import _core


class Carried(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports `pyrust_nn` from the texts that the binary carries."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in MODULES:
            return None
        spec = importlib.util.spec_from_loader(fullname, self, origin=MODULES[fullname][0], is_package=self.is_package(fullname))
        spec.has_location = True
        return spec

    def get_source(self, fullname):
        return MODULES[fullname][1]

    def exec_module(self, module):
        # The path in the code object and this loader's get_source let tracebacks show the lines.
        exec(compile(self.get_source(module.__name__), MODULES[module.__name__][0], "exec"), module.__dict__)

    def is_package(self, fullname):
        return MODULES[fullname][2]


sys.modules["pyrust_nn._core"] = _core
sys.meta_path.insert(0, Carried())
sys.argv = ["pyrust-nn"]
multiprocessing.set_executable(EXECUTABLE)
