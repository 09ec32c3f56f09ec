"""What a step sees while it runs: its parameters, its session, and its streams and logging led into the session's log."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import io
import json
import linecache
import logging
import os
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

from pyrust_nn import _core

LOG_EVERY_SECONDS = 5.0
"""A progress bar redraws itself many times a second; the log gets one of its lines in this time."""

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "gguf", "tokenizers", "safetensors", "numpy")


class StreamToLogger(io.TextIOBase):
    """A text stream whose lines become records; lines that overwrite themselves (`\\r`) are thinned out."""

    def __init__(self, origin: str) -> None:
        """Records get `origin` (stdout or stderr) as their name."""
        self.origin = origin
        self.line = ""
        self.redrawn_at: float | None = None
        self.lock = threading.RLock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Text goes to Rust, which is UTF-8 throughout."""
        return "utf-8"

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Take text as it comes; whole lines become records at once."""
        with self.lock:
            *whole, self.line = (self.line + text).split("\n")
            for line in whole:
                self._record(line.rsplit("\r", 1)[-1])
                self.redrawn_at = None
            if "\r" in self.line:
                drawn, _, rest = self.line.rpartition("\r")
                self.line = rest
                drawn = rest or drawn.rsplit("\r", 1)[-1]
                now = time.monotonic()
                self.redrawn_at = now if self.redrawn_at is None else self.redrawn_at
                if drawn.strip() and now - self.redrawn_at >= LOG_EVERY_SECONDS:
                    self.redrawn_at = now
                    self._record(drawn)
        return len(text)

    def finish(self) -> None:
        """Record what has no newline yet."""
        with self.lock:
            if self.line:
                self._record(self.line)
                self.line = ""

    def _record(self, line: str) -> None:
        if line.strip():
            _core.log(logging.INFO, self.origin, line)


class LogHandler(logging.Handler):
    """Hands records to the native log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Errors in a record's own formatting are reported the standard way, not raised into the caller."""
        try:
            _core.log(record.levelno, record.name, self.format(record))
        except Exception:
            self.handleError(record)


class Bridge:
    """Streams, root logger, warnings and (in the embedded interpreter) signals, until `close`, which gives them back."""

    def __init__(self) -> None:
        """Take over."""
        self.handler = LogHandler(logging.DEBUG)
        self.streams = (sys.stdout, sys.stderr)
        self.ours = (StreamToLogger("stdout"), StreamToLogger("stderr"))
        sys.stdout, sys.stderr = self.ours  # type: ignore[assignment]
        root = logging.getLogger()
        self.level, self.handlers = root.level, root.handlers[:]
        root.setLevel(logging.DEBUG)
        root.handlers[:] = [self.handler]
        self.showwarning = warnings.showwarning
        logging.captureWarnings(True)
        self.signals: dict[int, Any] = {}
        if _core.EMBEDDED and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.signals[number] = signal.signal(number, interrupt)

    def close(self) -> None:
        """Give everything back, the last unfinished lines written."""
        for stream in self.ours:
            stream.finish()
        sys.stdout, sys.stderr = self.streams
        root = logging.getLogger()
        root.setLevel(self.level)
        root.handlers[:] = self.handlers
        logging.captureWarnings(False)
        warnings.showwarning = self.showwarning


def open_bridge() -> Bridge:
    """For Rust."""
    return Bridge()


def interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C and SIGTERM end a step alike: the summary is still written."""
    raise KeyboardInterrupt(signal.Signals(number).name)


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

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far the step is: `done` of `total`, and what else is worth knowing."""
        self._native.progress(max(0, int(done)), max(0, int(total)), str(text))

    def metric(self, record: dict[str, Any]) -> None:
        """Append one object to the step's metrics.jsonl."""
        self._native.metric(json.dumps(record, default=plain, ensure_ascii=False))

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
    bridge = Bridge()
    try:
        with environment(about["offline"]):
            logging.getLogger(__name__).debug("Python %s in %s", platform.python_version(), sys.prefix)
            script = load(Path(about["script"]))
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


def load(path: Path) -> dict[str, Any]:
    """Execute the script's file and give its names."""
    text = path.read_text(encoding="utf-8")
    linecache.checkcache(str(path))
    code: CodeType = compile(text, str(path), "exec")
    names: dict[str, Any] = {"__name__": "__pyrust_nn_script__", "__file__": str(path)}
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
    """Refuse to connect or to look a host up while a step is offline."""
    if _NO_SOCKETS.is_set() and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise _core.ModelError(
            "something tried to reach the network although the step is offline; use a folder or a model downloaded before"
        )


@contextlib.contextmanager
def environment(offline: bool) -> Iterator[None]:
    """Set what libraries read from the environment. Offline, let nothing reach the network; send no telemetry in any case."""
    # torch's threads spin while they wait, by default: with anything else on the machine small models become ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    names = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if offline:
        names |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        if not _AUDITED.is_set():
            _AUDITED.set()
            sys.addaudithook(audit)  # hooks stay for good, so this one asks whether it is wanted
        _NO_SOCKETS.set()
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        _NO_SOCKETS.clear()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def facts() -> dict[str, Any]:
    """What session.json keeps of Python: its version, the packages', the device's. Imports nothing that is not there already."""
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {"python": platform.python_version(), "packages": packages, "gpu": gpu}
