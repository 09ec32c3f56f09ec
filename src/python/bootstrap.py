"""Makes `pyrust_nn` importable. Run once after the embedded interpreter has started.

MODULES is {name: (path, text, is_package)}, EXECUTABLE the environment's python.
"""

import importlib.abc
import importlib.util
import multiprocessing
import sys

import _core


class EmbeddedImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports `pyrust_nn` from the files embedded in the binary."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in MODULES:
            return None
        spec = importlib.util.spec_from_loader(fullname, self, origin=MODULES[fullname][0], is_package=self.is_package(fullname))
        spec.has_location = True
        return spec

    def get_source(self, fullname):
        return MODULES[fullname][1]

    def exec_module(self, module):
        # With the path in the code object and get_source, tracebacks show source lines.
        exec(compile(self.get_source(module.__name__), MODULES[module.__name__][0], "exec"), module.__dict__)

    def is_package(self, fullname):
        return MODULES[fullname][2]


sys.modules["pyrust_nn._core"] = _core
sys.meta_path.insert(0, EmbeddedImporter())
sys.argv = ["pyrust-nn"]
multiprocessing.set_executable(EXECUTABLE)
