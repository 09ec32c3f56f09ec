"""What a step sees while it runs: its parameters, its session, its environment."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import gc
import importlib.metadata
import io
import json
import linecache
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from pyrust_nn import _core
from pyrust_nn._bridge import Bridge
from pyrust_nn._imports import quick_imports

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "gguf", "tokenizers", "safetensors", "numpy")


SOURCES: dict[str, str] = {}
"""Folders that models without a folder of their own (`builtin:tiny`, hub names) were read from in this step; Rust hashes them."""


def open_bridge() -> Bridge:
    """For Rust."""
    return Bridge()


class Session:
    """A step's session, as scripts know it."""

    def __init__(self, native: Any, about: dict[str, Any]) -> None:
        """`native` leads back into Rust."""
        self._native = native
        self.id: str = about["id"]
        self.step: str = about["step"]
        self.folder = Path(about["folder"])
        self.step_folder = Path(about["step_folder"])
        self.offline: bool = about["offline"]
        self.checkpoint: Path | None = Path(about["checkpoint"]) if about["checkpoint"] else None
        """The checkpoint, whole and checked, that this step is to go on from."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far the step is: `done` of `total`, and what else is worth knowing."""
        self._native.progress(max(0, int(done)), max(0, int(total)), str(text))

    def metric(self, record: dict[str, Any]) -> None:
        """Append one object to the step's metrics.jsonl."""
        self._native.metric(json.dumps(record, default=plain, ensure_ascii=False))

    def depends_on(self, name: str, folder: Path) -> None:
        """Note a model that the parameter `name` stands for, so that a resumed step refuses another one."""
        self._native.depends_on(name, os.fspath(folder))

    def publish_checkpoint(self, made: Path, target: Path) -> None:
        """Give a finished folder its name as a checkpoint, with a list of its files and their hashes."""
        self._native.publish_checkpoint(os.fspath(made), os.fspath(target))

    def stream(self, text: str) -> None:
        """Show text on the terminal as it comes."""
        self._native.stream(text)


def plain(value: Any) -> Any:
    """What JSON does not know: paths as text, NumPy's and torch's scalars as numbers."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a script's answer holds a {type(value).__name__}, which JSON does not know; return numbers, texts, lists and dicts")


def call(native: Any, about_json: str, params_json: str) -> str:
    """Run the script and give its answer as JSON. Called by Rust."""
    about = json.loads(about_json)
    SOURCES.clear()
    bridge = Bridge()
    try:
        with environment(about["offline"]):
            logging.getLogger(__name__).debug("Python %s in %s", platform.python_version(), sys.prefix)
            with quick_imports(about["own_interpreter"]):
                script = load(Path(about["script"]), f"step.{about['step']}")
            params = json.loads(params_json)
            if about["user_script"]:
                params = check_params(script.get("PARAMS", {}), params["params"] or {}, about)
            answer = script["run"](SimpleNamespace(**params), Session(native, about))
            if answer is not None and not isinstance(answer, dict):
                raise TypeError(f"run() gave a {type(answer).__name__}; it must give a dict, or None")
            answer = dict(answer or {})
            if about["user_script"]:
                known = {"outputs", "metrics", "params", "result"}
                answer = answer if answer.keys() <= known else {"result": answer}
                answer["params"] = {"params": params}
            return json.dumps({**answer, "facts": facts()}, default=plain, ensure_ascii=False)
    finally:
        bridge.close()


def finish() -> None:
    """What Python does at the end of a process, for a script's threads, exit functions and open files. Called by Rust."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for one in gc.get_objects():
        if issubclass(type(one), io.IOBase):
            with contextlib.suppress(OSError, ValueError):
                one.flush()


def load(path: Path, name: str) -> dict[str, Any]:
    """Execute the script's file as the module `name` (dataclasses and loggers ask for it) and give its names."""
    text = path.read_text(encoding="utf-8")
    linecache.checkcache(str(path))
    code: CodeType = compile(text, str(path), "exec")
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    names = module.__dict__
    exec(code, names)
    if not callable(names.get("run")):
        raise _core.InputError(f"script {path.name} has no function run(params, session)")
    return names


def check_params(defaults: Any, given: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Check a user's parameters against the script's PARAMS: {name: default}; the default's type is the parameter's."""
    if not isinstance(defaults, dict):
        raise _core.InputError(f"PARAMS of the script must be a dict of names and defaults, not a {type(defaults).__name__}")
    for name in given:
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, 1)
            cure = f"did you mean {near[0]}?" if near else f"it has {', '.join(defaults) or 'none'}"
            raise _core.UsageError(f"the script has no parameter {name}; {cure}")
    return {name: fit(name, default, given.get(name, default), about["from_text"]) for name, default in defaults.items()}


def fit(name: str, default: Any, value: Any, from_text: bool) -> Any:
    """The value in the default's type. Text from the command line is read as that type; elsewhere types must agree."""
    wanted = default if isinstance(default, type) else type(default)
    if isinstance(default, type) and value is default:
        raise _core.UsageError(f"the script needs the parameter {name} ({wanted.__name__})")
    if value is default:
        return value
    if from_text and isinstance(value, str) and wanted is not str:
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if wanted is type(None) or (value is None and default is None):
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise _core.UsageError(f"the script's parameter {name} must be of type {wanted.__name__}, not {value!r}")
    return value


_NO_SOCKETS = threading.Event()
_AUDITED = threading.Event()


def audit(event: str, args: tuple[Any, ...]) -> None:
    """Refuse to connect or to look a host up while a step is offline. A socket whose address is a path leads nowhere else."""
    # The event first: while Python ends other events come, and this module's names are gone.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and _NO_SOCKETS.is_set():
        if event != "socket.getaddrinfo" and isinstance(args[-1], (str, bytes)):
            return
        raise _core.ModelError(
            "something tried to reach the network although the step is offline; use a folder or a model downloaded before"
        )


@contextlib.contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Set these in `os.environ`, and put back afterwards what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def environment(offline: bool) -> Iterator[None]:
    """Set what libraries read from the environment. Offline, let nothing reach the network; send no telemetry in any case."""
    # torch's threads spin while they wait, by default for milliseconds: with anything else on the machine small models
    # become ten times slower. Some microseconds keep most of what spinning gains on an idle one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # oneDNN keeps a thousand kernels of a megabyte each, and every length of a micro-batch needs some of its own.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    names = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if offline:
        names |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        if not _AUDITED.is_set():
            _AUDITED.set()
            sys.addaudithook(audit)  # hooks stay for good, so this one asks whether it is wanted
        _NO_SOCKETS.set()
    try:
        with variables(names):
            yield
    finally:
        _NO_SOCKETS.clear()


def facts() -> dict[str, Any]:
    """What session.json keeps of Python: its version, the packages', the device's. Imports nothing that is not there already."""
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {"python": platform.python_version(), "packages": packages, "gpu": gpu, "sources": dict(SOURCES)}
