"""Runs a step's script for Rust: loads it, checks a user script's parameters, calls `run(params, session)`, returns its answer as JSON."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib.metadata
import io
import json
import linecache
import logging
import math
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from pyrust_nn import _core
from pyrust_nn._runtime.environment import MODEL_SOURCES, step_environment
from pyrust_nn._runtime.imports import fast_imports
from pyrust_nn._runtime.launcher import step_processes
from pyrust_nn._runtime.processes import Processes
from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn._runtime.script_params import check_params
from pyrust_nn._runtime.streams import StreamBridge, encodable

if TYPE_CHECKING:
    from pyrust_nn.types import StepDataset

MAX_DEPTH = 100
"""Levels of lists and dicts in a result. JSON readers limit them too."""

REPORTED_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "gguf",
    "tokenizers",
    "safetensors",
    "numpy",
)


def open_bridge() -> StreamBridge:
    """Redirect streams, logging and signals until the bridge is closed. Called by Rust."""
    return StreamBridge()


class Session:
    """A step's session, as scripts see it."""

    def __init__(
        self, native: Any, about: dict[str, Any], own_params: dict[str, Any] | None = None, processes: Processes | None = None
    ) -> None:
        """`native` is the Rust object that does the work; `about` describes the step; `own_params` are those of a user's own script."""
        self._native, self._own_params = native, own_params
        self.processes = processes or Processes()
        self.ranks = Ranks()
        """The processes that train together, once `initialize_training` has joined them."""
        self.cleanup = contextlib.ExitStack()
        """What is undone when the script ends."""
        self.id: str = about["id"]
        self.step: str = about["step"]
        self.folder = Path(about["folder"])
        self.step_folder = Path(about["step_folder"])
        self.offline: bool = about["offline"]
        self.checkpoint: Path | None = Path(about["checkpoint"]) if about["checkpoint"] else None
        """The complete and verified checkpoint from which this step resumes."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Draw the progress bar: `done` of `total` units, followed by `text`."""
        self._native.progress(max(0, int(done)), max(0, int(total)), encodable(str(text)))

    def dataset(self, name: str = "dataset_path") -> StepDataset:
        """The data set that the parameter `name` names (`dataset_path` or `eval_dataset_path`), prepared for the parameter `model`.

        It is prepared once in a step; a fine-tuning task has it prepared before the script begins where that needs no Python.
        `path` and `eval_path` are files for `training.rows.PreparedRows`; `options` are the parameters that decided the rows.

        Raises InputError if the step has no such parameter, or if the data is wrong.
        """
        dataset: StepDataset = self.processes.broadcast_object(lambda: self._native.dataset(name, self._own_params))
        return dataset

    def metric(self, record: dict[str, Any]) -> None:
        """Append one object to the step's metrics.jsonl."""
        self._native.metric(json.dumps(record, default=to_json, ensure_ascii=False))

    def depends_on(self, name: str, folder: Path) -> None:
        """Record the model that the parameter `name` stands for, so that a resumed step refuses a changed one."""
        self._native.depends_on(name, os.fspath(folder))

    def publish_checkpoint(self, partial: Path, target: Path) -> None:
        """Rename a complete folder to its name as a checkpoint, with a manifest of its files and their hashes."""
        self._native.publish_checkpoint(os.fspath(partial), os.fspath(target))

    def stream(self, text: str) -> None:
        """Write text to the terminal at once."""
        self._native.stream(encodable(text))


def to_json(value: Any) -> Any:
    """Convert what JSON lacks: paths to strings, NumPy's and torch's scalars to numbers, their arrays to lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"run() returned a {type(value).__name__}, which JSON cannot hold; return numbers, strings, lists and dicts")


def call(native: Any, about_json: str, params_json: str, processes: Processes | None = None) -> str:
    """Run the script and return its answer as JSON. Called by Rust, and in a worker by `worker`, with the step's processes."""
    about = json.loads(about_json)
    MODEL_SOURCES.clear()
    bridge = StreamBridge()
    try:
        params = json.loads(params_json)
        with contextlib.ExitStack() as stack:
            stack.enter_context(step_environment(about["offline"]))
            stack.enter_context(refused_exit(about["own_interpreter"]))
            logging.getLogger(__name__).debug("Python %s in %s", platform.python_version(), sys.prefix)
            with fast_imports():
                processes = processes or stack.enter_context(step_processes(native, about, params))
                script = load_script(Path(about["script"]), f"step.{about['step']}")
            native.environment(json.dumps(facts()))
            if about["user_script"]:
                params = check_params(script.get("PARAMS", {}), params["params"] or {}, about["from_text"])
            session = Session(native, about, params if about["user_script"] else None, processes)
            with session.cleanup:
                answer = script["run"](SimpleNamespace(**params), session)
            if answer is not None and not isinstance(answer, dict):
                raise TypeError(f"run() returned a {type(answer).__name__}; it must return a dict or None")
            answer = dict(answer or {})
            if about["user_script"]:
                known = {"outputs", "metrics", "params", "result"}
                answer = answer if answer.keys() <= known else {"result": answer}
                answer["params"] = {"params": params}
            return answer_json(answer)
    finally:
        bridge.close()


def answer_json(answer: dict[str, Any]) -> str:
    """The answer as JSON. What JSON cannot hold becomes null, and `fault` names it: the step fails, and the rest is kept."""
    faults: list[str] = []
    outer: list[int] = []

    def clean(value: Any, place: str) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            faults.append(f"{place} is {value}")
        elif value is None or isinstance(value, (str, int, float)):
            return value
        elif not isinstance(value, (dict, list, tuple)):
            return clean(to_json(value), place)
        elif id(value) in outer:
            faults.append(f"{place[:60]} contains itself")
        elif len(outer) > MAX_DEPTH:
            faults.append(f"{place[:60]}… is nested deeper than {MAX_DEPTH} levels")
        else:
            outer.append(id(value))
            if isinstance(value, dict):
                kept: Any = {key: clean(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
            else:
                kept = [clean(item, f"{place}[{index}]") for index, item in enumerate(value)]
            outer.pop()
            return kept
        return None

    cleaned = clean(answer, "")
    fault = f"the script's result cannot be written as JSON: {'; '.join(faults[:5])}" if faults else None
    return json.dumps({**cleaned, "sources": dict(MODEL_SOURCES), "fault": fault}, ensure_ascii=False)


@contextlib.contextmanager
def refused_exit(own_interpreter: bool) -> Iterator[None]:
    """Make `os._exit` an error in the process of the command line, where it would end the step without a summary.

    Processes that the script forks end by it as usual. So does a Python host.
    """
    before, process = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:
            before(status)
        message = (
            f"the script called os._exit({status}), which ends the process without a summary; return from run(), or raise an exception"
        )
        if threading.current_thread() is threading.main_thread():
            raise _core.ScriptError(message)
        logging.getLogger(__name__).error("%s", message)
        before(status or 1)

    if own_interpreter:
        os._exit = refuse
    try:
        yield
    finally:
        os._exit = before


def finish() -> None:
    """Do what Python does when a process ends: join threads, call exit functions, flush open files. Called by Rust."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for item in gc.get_objects():
        if issubclass(type(item), io.IOBase):
            with contextlib.suppress(OSError, ValueError):
                item.flush()


def load_script(path: Path, name: str) -> dict[str, Any]:
    """Execute the script's file as the module `name` (dataclasses and loggers look it up) and return its globals."""
    text = path.read_text(encoding="utf-8")
    linecache.checkcache(str(path))
    code: CodeType = compile(text, str(path), "exec")
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    names = module.__dict__
    exec(code, names)
    # Last, because pickle takes what it looks for from the first module that has it, and this one cannot be imported.
    sys.modules[name] = sys.modules.pop(name)
    if not callable(names.get("run")):
        raise _core.InputError(f"script {path.name} has no function run(params, session); define one")
    return names


def facts() -> dict[str, Any]:
    """What session.json records of Python: its version, the packages' versions, the GPU. Imports no package for it."""
    packages = {}
    for name in REPORTED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {"python": platform.python_version(), "packages": packages, "gpu": gpu}
