"""Starts the workers of a step (`nproc_per_node`), watches them and ends them.

The process that owns the session is rank 0 and trains too, as it does alone, so there is no agent between the user and the training:
signals, progress, log and errors are those of one process. A worker is this program again, in a session of its own (Ctrl-C in the
terminal is for rank 0, which tells the others). It gets what it works on as a line of its standard input, and ends when that does,
however this process ends; on Linux the kernel sees to that too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrust_nn import InputError, PyrustNNError, ScriptError, _core
from pyrust_nn._runtime.environment import environment_variables
from pyrust_nn._runtime.processes import Processes, ProcessPlace, threads_for, torchrun_place, torchrun_step, torchrun_store
from pyrust_nn.files import append_file, write_json

if TYPE_CHECKING:
    from torch.distributed import Store

logger = logging.getLogger(__name__)

WORKERS_FILE = "workers.json"
POLL_SECONDS = 0.1
LAST_WORDS_SECONDS = 10
"""How long is waited for the end of a worker when a reduction failed in rank 0, which its end may have caused."""
END_SECONDS = 60


def wanted_processes(params: dict[str, Any]) -> int:
    """How many processes the parameters ask for. `auto`: one for each GPU, and one without."""
    asked = params.get("nproc_per_node", 1)
    if asked != "auto":
        return int(asked)
    if params.get("device") not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 1


@contextlib.contextmanager
def step_processes(native: Any, about: dict[str, Any], params: dict[str, Any]) -> Iterator[Processes]:
    """The processes of rank 0's step; while entered they run.

    `about` and `params` are what `host.call` got. Raises ScriptError if a worker ends early, and tells `native` if the step may be
    started again.
    """
    place = torchrun_place() if "nproc_per_node" in params else None
    plan = {"about": about, "params": params}
    if place:
        logger.info("joins %d processes that torchrun started; nproc_per_node and max_restarts do not apply", place.size)
        yield torchrun_step(publish({"plan": plan}))
        return
    count = wanted_processes(params)
    if count == 1:
        yield Processes()
        return
    loopback = "lo" if sys.platform == "linux" else "lo0"
    names = {name: os.environ.get(name, loopback) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    with environment_variables(names), socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(count)
        port = listening.getsockname()[1]
        processes = Processes(ProcessPlace(0, count, 0, count), lambda: own_store(listening, count))
        with Workers(Path(about["step_folder"]), processes, port, plan) as workers:
            try:
                yield processes
            except Exception as error:
                # What torch.distributed raises, a moment before the worker has ended.
                wait = LAST_WORDS_SECONDS if isinstance(error, RuntimeError) else 0
                if isinstance(error, PyrustNNError) or (lost := workers.lost(wait)) is None:
                    raise
                if not isinstance(lost, PyrustNNError):
                    native.worker_lost()
                    lost = ScriptError(f"{lost}")
                raise lost from error
            workers.finish()


def own_store(listening: socket.socket, count: int) -> Store:
    """A store whose server is in this process. The workers may have connected already."""
    from torch.distributed import TCPStore

    port = listening.getsockname()[1]
    return TCPStore("127.0.0.1", port, count, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(listening.fileno()))


_said = 0


def publish(item: dict[str, Any]) -> int:
    """Tell the processes that torchrun started what comes next (see `worker`); how many items came before."""
    global _said
    torchrun_store().set(f"item/{_said}", json.dumps(item))
    _said += 1
    return _said - 1


class Workers:
    """The workers of a step, ranks 1 and up. Leaving the block ends those that are left."""

    def __init__(self, folder: Path, processes: Processes, port: int, plan: dict[str, Any]) -> None:
        """`folder` is the step's; `plan` is what a worker works on."""
        self.folder, self.processes, self.port, self.plan = folder, processes, port, plan
        self.started: dict[int, subprocess.Popen[bytes]] = {}
        self.failed: int | None = None
        """The rank that ended first, and not by itself."""
        self._finishing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)

    def __enter__(self) -> Workers:
        """Start them."""
        try:
            for rank in range(1, self.processes.size):
                self._start(rank)
            pids = {0: os.getpid()} | {rank: process.pid for rank, process in self.started.items()}
            write_json(self.folder / WORKERS_FILE, pids, sync=False)
        except BaseException:
            self._end()
            raise
        self._watcher.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """End them."""
        self._finishing.set()
        self._watcher.join()
        self._end()
        (self.folder / WORKERS_FILE).unlink(missing_ok=True)

    def _start(self, rank: int) -> None:
        size = self.processes.size
        environment = os.environ | {_core.LAUNCHED: "1", "RANK": str(rank), "WORLD_SIZE": str(size)}
        environment |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": str(threads_for(size))}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        with append_file(self.log(rank)) as log:
            process = subprocess.Popen(
                worker_command(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.started[rank] = process
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # then it has ended, which is noticed
            process.stdin.write(json.dumps(self.plan | {"log": str(self.log(rank)), "parent": os.getpid()}).encode() + b"\n")
            process.stdin.flush()

    def log(self, rank: int) -> Path:
        """The log of a worker."""
        return self.folder / f"rank-{rank}.log"

    def _watch(self) -> None:
        """Note the first that fails, and end the others: then what rank 0 waits for fails too."""
        while not self._finishing.wait(POLL_SECONDS):
            ended = {rank: status for rank, process in self.started.items() if (status := process.poll())}
            if ended:
                # Others fail because of it.
                self.failed = min(ended, key=lambda rank: (ended[rank] > 0, rank))
                self._end()
                self.processes.worker_ended.set()
                if self.processes.abort:
                    self.processes.abort()
                return

    def _end(self) -> None:
        for process in self.started.values():
            if process.poll() is None:
                process.kill()
        for process in self.started.values():
            process.wait()
            with contextlib.suppress(OSError):
                if process.stdin:
                    process.stdin.close()

    def lost(self, wait: float) -> Exception | None:
        """Why a worker failed, if one did within `wait` seconds: its own error of this package, else a RuntimeError."""
        self._watcher.join(wait)
        if self.failed is None:
            return None
        rank, process = self.failed, self.started[self.failed]
        store = self.processes.store
        if store.check([f"error/{rank}"]):
            error = json.loads(store.get(f"error/{rank}"))
            if error["kind"] is not None:
                known: type[Exception] = getattr(_core, error["kind"])
                return known(f"rank {rank}: {error['message']}")
            how = f"failed: {error['message']}"
        elif process.returncode < 0:
            how = f"was ended by {signal_name(-process.returncode)}"
        else:
            how = f"ended with status {process.returncode}"
        return RuntimeError(f"rank {rank} (process {process.pid}) {how}; its log is {self.log(rank)}")

    def finish(self) -> None:
        """Wait until all have ended by themselves."""
        self._finishing.set()
        until = time.monotonic() + END_SECONDS
        for process in self.started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))


def signal_name(number: int) -> str:
    """`SIGKILL`, or the number of a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def worker_command() -> list[str]:
    """The command that starts a worker: this program again. Raises InputError if it cannot be one."""
    command: list[str] | None = _core.worker_command()
    if command:
        return command
    if _core.EMBEDDED:
        raise InputError(
            "nproc_per_node: a program of your own that embeds this crate cannot be started as a worker; use the pyrust-nn command, or "
            "start your program by torchrun"
        )
    code = f"import sys; sys.path[:] = {sys.path!r}; from pyrust_nn._runtime.worker import work; sys.exit(work())"
    return [os.fsdecode(spawn.get_executable()), "-c", code]
