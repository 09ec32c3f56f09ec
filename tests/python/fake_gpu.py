"""A GPU that computes nothing: the code for CUDA runs on a machine without one, up to the values of its tensors.

`fake_gpu.c` is a CUDA runtime with one device. In a process that has loaded it, torch's tensors on `cuda` are fake ones (a shape, a dtype
and a device), and its autograd engine, autocast and optimizers run as on a GPU. An operation on tensors of different devices, or of
dtypes that do not go together, fails as it does there. `OnFakeGpu` counts what waits for the GPU and what memory is held.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SOURCE = Path(__file__).with_name("fake_gpu.c")
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "_scaled_dot_product_attention"}
"""Operations that need one dtype, which fake tensors do not check."""

ALLOCATION = 512  # torch's allocator rounds up to this


def missing() -> str | None:
    """Why there cannot be a fake GPU here; None if there can."""
    if sys.platform != "linux":
        return "a library is loaded before torch as on Linux"
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return None if shutil.which("cc") else "there is no C compiler"


class RemoteError(Exception):
    """What a function raised in the process with the GPU: its traceback, whose last line has class and message."""


class FakeGpu:
    """A process that has a fake GPU."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        """`executor` has one process."""
        self.executor = executor

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of a module there. Raises RemoteError."""
        result, error = self.executor.submit(called, function, args, kwargs).result()
        if error is not None:
            raise RemoteError(error)
        return result


def called(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, str | None]:
    """The result of a function, and what it raised as text, since not every exception can be sent."""
    try:
        return function(*args, **kwargs), None
    except Exception:
        return None, traceback.format_exc()


@contextmanager
def fake_gpu(folder: Path, *, capability: int = 9, flash_attention: bool = False) -> Iterator[FakeGpu]:
    """Start such a process.

    capability: the major number of the GPU's generation. flash_attention: whether a package of this name is installed, which has its
    signatures and checks of its arguments.
    """
    library = folder / "libcuda.so.1"  # torch asks for the driver by this name
    options = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{library.name}"]
    subprocess.run(["cc", *options, "-o", str(library), str(SOURCE)], check=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        gpu = FakeGpu(executor)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(library), prepend=os.pathsep if "LD_PRELOAD" in os.environ else None)
            patch.setenv("FAKE_GPU_CAPABILITY", str(capability))
            gpu.run(check, capability)  # which starts it
        if flash_attention:
            gpu.run(install_flash_attention, folder)
        yield gpu


def install_flash_attention(folder: Path) -> None:
    """A package `flash_attn` in `folder`, which this process finds as an installed one."""
    package, metadata = folder / "flash_attn", folder / "flash_attn-2.8.3.dist-info"
    for made in (package, metadata):
        made.mkdir()
    (package / "__init__.py").write_text('__version__ = "2.8.3"\nfrom fake_flash_attention import *\n')
    (package / "bert_padding.py").write_text("from fake_flash_attention import pad_input, unpad_input\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n")
    (metadata / "top_level.txt").write_text("flash_attn\n")
    (metadata / "RECORD").write_text("flash_attn/__init__.py,,\n")
    sys.path.insert(0, str(folder))


def _apply(module: Any, fn: Any, recurse: bool = True) -> Any:
    """`Module._apply`, which moves parameters, without swapping tensors: torch cannot do that with fake ones."""
    moved: dict[int, Any] = {}  # tied ones stay tied
    for part in module.modules() if recurse else [module]:
        for name, parameter in part._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in moved:
                with torch.no_grad():
                    other = fn(parameter)
                made = parameter if other is parameter else torch.nn.Parameter(other, parameter.requires_grad)
                moved[id(parameter)] = parameter, made
            part._parameters[name] = moved[id(parameter)][1]
        part._buffers |= {name: buffer if buffer is None else fn(buffer) for name, buffer in part._buffers.items()}
    return module


def check(capability: int) -> None:
    """Fail unless torch has the device."""
    assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (capability, 0)


class OnFakeGpu(TorchDispatchMode):
    """While entered, tensors are fake, and operations on them are watched.

    `waits` counts by name the operations for which the process would wait until the GPU has done everything before: a value that Python
    reads, a copy between pageable memory and the GPU. A number of elements that depends on values (`nonzero`, a mask as index) is an
    error. `operations` counts all of them by name.

    `peak_bytes` is the most that tensors took at a time.
    """

    def __init__(self, value: float = 1.0, truth: Callable[[OnFakeGpu], bool] = lambda gpu: True, device: str = "cuda") -> None:
        """Python reads `value` from tensors of numbers, and the result of `truth` from those of type bool.

        device: whose memory is counted.
        """
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.value, self.truth, self.device = value, truth, device
        self.waits: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.bytes = self.peak_bytes = 0
        self._held: set[int] = set()

    def __enter__(self) -> OnFakeGpu:
        # Otherwise it would make small tensors on the GPU in earnest.
        FakeTensorMode.avoid_device_init = property(lambda mode: True)  # type: ignore[method-assign, assignment]
        torch.nn.Module._apply = _apply  # type: ignore[method-assign]
        self.fake.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.fake.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if func is not torch.ops.prim.device.default:
            # In inference mode operations come here that consist of others.
            super().__enter__()
            try:
                composed = func.decompose(*args, **kwargs)
            finally:
                super().__exit__(None, None, None)
            if composed is not NotImplemented:
                return composed
        if name == "_pin_memory":
            pinned = args[0].clone()
            pinned.is_in_pinned_memory = True
            return pinned
        if name == "_local_scalar_dense":
            self._note(name, args[0].is_cuda)
            dtype = args[0].dtype
            return self.truth(self) if dtype == torch.bool else float(self.value) if dtype.is_floating_point else int(self.value)
        self.operations[name] += 1
        if name in PRODUCTS and len(kinds := {one.dtype for one in tree_leaves(args) if isinstance(one, torch.Tensor)}) > 1:
            raise RuntimeError(f"{name} of tensors of different dtypes: {', '.join(sorted(map(str, kinds)))}")
        result = func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], result) if name == "_to_copy" else (args[1], args[0])
            free = bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            # torch pins what it copies from the GPU without waiting.
            free &= target.is_cpu or hasattr(source, "is_in_pinned_memory")
            self._note(f"{name} from {source.device.type} to {target.device.type}", source.is_cuda != target.is_cuda and not free)
        self._track(result)
        return result

    def _note(self, what: str, waits: bool) -> None:
        if waits:
            frame: Any = sys._getframe(2)
            while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
                frame = frame.f_back
            self.waits[f"{what} in {frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"] += 1

    def _track(self, result: Any) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, FakeTensor):
                tensor.constant = None  # it would be computed with in earnest, on the GPU too
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device:
                storage = tensor.untyped_storage()
                if id(storage) not in self._held:
                    size = -(-storage.nbytes() // ALLOCATION) * ALLOCATION
                    self._held.add(id(storage))
                    self.bytes += size
                    self.peak_bytes = max(self.peak_bytes, self.bytes)
                    weakref.finalize(storage, self._freed, id(storage), size)

    def _freed(self, storage: int, size: int) -> None:
        self._held.discard(storage)
        self.bytes -= size
