"""llama.cpp's server in a process of our own: started, asked over the loopback interface, restarted once if it dies, ended.

An abort of llama.cpp ends its process and nothing else. The process ends with ours, however ours ends, because its standard input does.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import inspect
import json
import logging
import os
import re
import secrets
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import spawn
from types import ModuleType
from typing import Any

from pyrust_nn import InputError, ModelError, SetupError
from pyrust_nn._runtime.processes import threads_for
from pyrust_nn.llama import child, child_end

logger = logging.getLogger(__name__)

INSTALL = "pip install 'pyrust-nn[llama]'"
MOST_THREADS, MOST_PARALLEL = 256, 64
API_KEY = "PYRUST_NN_API_KEY"
"""The variable with the key of `serve`, which is not llama.cpp's."""
OTHER_REQUESTS = 8
"""Requests that a server takes beside those that wait for an answer, such as `/tokenize`."""
SAID_LINES = 200
"""Lines of llama.cpp's log that are kept to explain its end."""


class ServerEndedError(Exception):
    """llama.cpp's process ended during a request; the text says why."""


@dataclass(frozen=True)
class EngineSettings:
    """What is served. `context` is the number of positions of each of the `parallel` slots."""

    file: str
    context: int
    parallel: int = 1
    adapters: Sequence[tuple[str, float]] = ()
    device: str = "auto"
    threads: int | None = None
    served_as: str | None = None
    """The name of a model that several people ask, by requests of their own (`serving`)."""


def installed() -> bool:
    """Whether the package xllamacpp is there."""
    return importlib.util.find_spec("xllamacpp") is not None


def threads() -> int:
    """Threads to compute with: OMP_NUM_THREADS, else the processors that this process may use."""
    return min(threads_for(1), MOST_THREADS)


class Engine:
    """A running llama.cpp. Use it in a `with` statement."""

    def __init__(self, settings: EngineSettings, *, in_background: bool = False) -> None:
        """Start it, which loads the model. Raises SetupError without the package, ModelError if llama.cpp cannot load the files.

        in_background: do not wait until the model is loaded. Call `wait_until_ready` before the first request.
        """
        self._check()
        if not (settings.context > 0 and 0 < settings.parallel <= MOST_PARALLEL):
            raise InputError(f"llama.cpp cannot run {settings.parallel} prompts at once with {settings.context} positions each")
        self.settings = settings
        self.key = secrets.token_hex(32)
        self._lock = threading.Lock()
        self._restarted = self._closed = False
        self._start()
        if not in_background:
            self.wait_until_ready()

    title = "llama.cpp"
    """Its name in messages."""

    def _check(self) -> None:
        if not installed():
            raise SetupError(f"GGUF files are run by llama.cpp, and the package xllamacpp is not installed; install it: {INSTALL}")

    child_module: ModuleType = child
    """The program of the process that holds the server: its `main`."""

    def _start(self) -> None:
        self._said: deque[str] = deque(maxlen=SAID_LINES)
        # The embedded interpreter's own executable is the program, not Python.
        self._process = subprocess.Popen(
            [
                os.fsdecode(spawn.get_executable()),
                "-c",
                f"{inspect.getsource(child_end)}\n{inspect.getsource(self.child_module)}\nrun(main)\n",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Read by libgomp when it is loaded: waiting threads must not take the time of those that compute.
            env={"OMP_WAIT_POLICY": "passive", **{name: value for name, value in os.environ.items() if name != API_KEY}},
            start_new_session=True,  # Ctrl-C in the terminal is for us
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stdin and self._process.stderr
        self._reader = threading.Thread(target=self._read_log, args=(self._process.stderr, self._said), daemon=True)
        self._reader.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(self._asked()) + "\n")
                self._process.stdin.flush()
        except BaseException:
            self._kill()
            raise

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded. Raises ModelError if llama.cpp cannot load the files."""
        assert self._process.stdout
        try:
            answer = self._process.stdout.readline()
        except BaseException:
            self._kill()
            raise
        if not answer.startswith("READY http://"):
            status = self._kill()
            raise self._not_started(status)
        _, self.address, self.device = answer.split()
        host, _, port = self.address.removeprefix("http://").rpartition(":")
        self._host, self._port = host, int(port)

    def _asked(self) -> dict[str, Any]:
        """What the child reads: the only place that chooses llama.cpp's settings."""
        one = self.settings
        count = one.threads or threads()
        gpu = one.device.startswith("cuda")
        settings: dict[str, Any] = {
            "model.path": one.file,
            "n_ctx": -(-one.context // 256) * 256 * one.parallel,  # llama.cpp rounds a slot's part up to 256
            "n_parallel": one.parallel,
            "kv_unified": False,  # with one cache for all slots, answers at temperature 0 depend on each other
            "cpuparams.n_threads": count,
            "cpuparams_batch.n_threads": count,
            "warmup": False,
            "fit_params": False,
            "use_jinja": True,
            "hostnames": ["127.0.0.1"],
            "port": 0,
            "api_keys": [self.key],
            "cors_origins": "",
            "cors_credentials": False,
            "ui": False,
            "endpoint_slots": False,
            "timeout_read": 600,
            "verbosity": 2,  # errors and warnings, never a prompt
        }
        if one.served_as:
            # Of prompts that left their slot llama.cpp keeps up to 8 GiB, and takes an adapter's for another's.
            settings |= {"cache_ram_mib": 0, "endpoint_metrics": True, "n_threads_http": one.parallel + OTHER_REQUESTS}
            settings["model_alias"] = [one.served_as]  # else answers have the file's path
        if one.device == "cpu":
            settings["n_gpu_layers"] = 0
        elif device := re.fullmatch(r"cuda:(\d+)", one.device):
            settings["main_gpu"] = int(device[1])
        return {"settings": settings, "adapters": [list(adapter) for adapter in one.adapters], "gpu": gpu}

    @staticmethod
    def _read_log(lines: Any, said: deque[str]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed
            for line in lines:
                if line.strip():
                    said.append(line.rstrip()[:2000])

    def reason(self) -> str:
        """What llama.cpp said last about an error."""
        self._reader.join(2)
        said = list(self._said)
        # Our own line, then llama.cpp's first error (`0.00.012.345 E srv load_model: reason`), then its last words.
        causes = [line.removeprefix("CAUSE ") for line in said if line.startswith("CAUSE ")]
        errors = [line.split(" E ", 1)[1] for line in said if " E " in line[:20]]
        return " ".join((causes[:1] or errors[:1] or said[-1:] or ["it said nothing"])[0].split())[:400]

    def _not_started(self, status: int) -> Exception:
        why = self.reason()
        if any(line.startswith("CAUSE ") for line in self._said):
            return SetupError(why)
        return ModelError(f"{self.title} cannot load {self.settings.file} ({ended(status)}): {why}")

    def _kill(self) -> int:
        """End the process at once. The status."""
        with contextlib.suppress(OSError):
            self._process.kill() if self._process.poll() is None and not self._asked_to_end() else None
        return self._process.wait()

    def _asked_to_end(self) -> bool:
        """Close its standard input, at which it ends; whether it did soon."""
        with contextlib.suppress(OSError):
            assert self._process.stdin
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
            return True
        return False

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def revive(self) -> None:
        """After a failed request: return if the process runs, start it again if it died for the first time.

        Raises ModelError if it died before.
        """
        if why := self.revived():
            logger.warning("%s; it is started again", why)

    def revived(self) -> str | None:
        """Like `revive`; how the process ended, if it had."""
        with self._lock:
            if self._closed:
                raise ServerEndedError("it was ended")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)  # its connections end a moment before it does
            if self.alive():
                return None
            # What an abort says has no time before it; errors of single requests have one.
            self._reader.join(2)
            said = [line for line in self._said if not line[:1].isdigit()]
            why = f"{self.title} ended ({ended(self._process.returncode)})" + (f": {said[-1][:300]}" if said else "")
            if self._restarted:
                raise ModelError(f"{why}; it had been restarted once before")
            self._restarted = True
            self._start()
            self.wait_until_ready()
            return why

    def wait(self) -> None:
        """Return when the process has ended."""
        self._process.wait()

    def close(self) -> None:
        """End it."""
        with self._lock:
            self._closed = True
            self._kill()
        for pipe in (self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if pipe:
                    pipe.close()

    def __enter__(self) -> Engine:
        """For a `with` statement, at whose end llama.cpp is ended."""
        return self

    def __exit__(self, *raised: object) -> None:
        """End llama.cpp."""
        self.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request and its whole answer. Raises InputError with llama.cpp's words if it refuses the request."""
        for _ in range(2):
            try:
                with self._request(path, body) as (response, _connection):
                    answer: dict[str, Any] = json.loads(response.read())
                return answer
            except ServerEndedError:
                self.revive()
        raise ModelError(f"llama.cpp does not answer {path}")

    def stream(self, path: str, body: Mapping[str, Any], stop: threading.Event | None = None) -> Iterator[dict[str, Any]]:
        """A request and the parts of its answer, as llama.cpp sends them. `stop` ends it from another thread.

        Raises ServerEndedError if llama.cpp ends during it: then call `revive` and ask again. Raises InputError if it refuses the request.
        """
        with self._request(path, {**body, "stream": True}) as (response, connection):
            complete = False
            watched = threading.Thread(target=_shut_when, args=(stop, connection), daemon=True) if stop else None
            if watched:
                watched.start()
            try:
                for line in response:
                    text = line.decode("utf-8").strip()
                    if text.startswith("error:"):
                        raise InputError(f"llama.cpp failed: {text.removeprefix('error:').strip()[:300]}")
                    if not text.startswith("data:") or text == "data: [DONE]":
                        continue
                    part = json.loads(text.removeprefix("data:"))
                    if "error" in part:
                        raise InputError(f"llama.cpp failed: {part['error'].get('message', part['error'])}")
                    complete = complete or bool(part.get("stop"))
                    yield part
            except InputError:  # a ValueError too
                raise
            except (OSError, ValueError, http.client.HTTPException) as cause:
                if stop is not None and stop.is_set():
                    return
                raise ServerEndedError(str(cause)) from cause
            if not complete and not (stop is not None and stop.is_set()):
                raise ServerEndedError("its answer is not complete")

    @contextlib.contextmanager
    def _request(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[http.client.HTTPResponse, http.client.HTTPConnection]]:
        connection = http.client.HTTPConnection(self._host, self._port)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            try:
                connection.request("POST", path, json.dumps(body).encode(), headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as cause:
                raise ServerEndedError(str(cause)) from cause
            if response.status != 200:
                raise InputError(f"llama.cpp refuses the request: {refusal(response)}")
            yield response, connection
        finally:
            connection.close()


def _shut_when(stop: threading.Event, connection: http.client.HTTPConnection) -> None:
    """Close a connection when `stop` is set, which cancels the answer in llama.cpp."""
    stop.wait()
    with contextlib.suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def refusal(response: http.client.HTTPResponse) -> str:
    """llama.cpp's words for a request that it refuses."""
    said = response.read().decode("utf-8", "replace")
    try:
        return str(json.loads(said)["error"]["message"])[:400]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status} {said[:300]}"


def ended(status: int) -> str:
    """How a process ended, in words."""
    import signal

    if status < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
    return f"status {status}"
