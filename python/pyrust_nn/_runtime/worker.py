"""A worker: a process that runs the scripts of rank 0's steps, and writes nothing but its log.

One that `launcher` started has one step to run, which it reads from its standard input. One that torchrun started follows rank 0 from
step to step, by items in the store: `{"plan": ...}` is a step to take part in, `{"summary": ...}` the end of any step, and
`{"end": status}` that of the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from pyrust_nn import PyrustNNError, _core
from pyrust_nn._runtime import host
from pyrust_nn._runtime.launcher import publish
from pyrust_nn._runtime.processes import Processes, ProcessPlace, StepEndedError, awaited, torchrun_step, torchrun_store

logger = logging.getLogger(__name__)

_heard = 0


class WorkerHost:
    """What a script's `session` calls in a worker: rank 0 does it."""

    def environment(self, facts: str) -> None:
        """Rank 0 records it."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Rank 0 draws the bar."""

    def metric(self, line: str) -> None:
        """Rank 0 writes metrics.jsonl."""

    def depends_on(self, name: str, folder: str) -> None:
        """Rank 0 records what the step depends on."""

    def stream(self, text: str) -> None:
        """Rank 0 shows it."""

    def dataset(self, name: str, own_params: Any) -> NoReturn:
        """Never called: rank 0 prepares data, see `Processes.broadcast_object`."""
        raise AssertionError(name)

    def publish_checkpoint(self, made: str, target: str) -> NoReturn:
        """Never called: rank 0 writes checkpoints."""
        raise AssertionError(target)


def work() -> int:
    """Be a worker until the end, and return the process's status. Called by Rust, and by `launcher` where Python is the host."""
    if os.environ.pop(_core.LAUNCHED, None) is None:
        return follow()
    plan = json.loads(sys.stdin.readline())
    end_with_parent(plan["parent"])
    place = ProcessPlace(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    return 0 if run(plan, Processes(place, launched_store), Path(plan["log"])) else 1


def launched_store() -> Any:
    """The store whose server is in rank 0."""
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"]), wait_for_workers=False)


def end_with_parent(parent: int) -> None:
    """End this process when the parent has ended, however that happens."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
    end = os._exit  # a script cannot call it, this thread can

    def wait() -> None:
        sys.stdin.read()
        end(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def run(plan: dict[str, Any], processes: Processes, log: Path) -> bool:
    """Run a step's script. Whether it succeeded; the store has its error otherwise."""
    with _core.attached_log(str(log)):
        try:
            host.call(WorkerHost(), json.dumps(plan["about"]), json.dumps(plan["params"]), processes)
            return True
        except StepEndedError:
            _core.log(logging.INFO, __name__, "rank 0 has ended the step", "always")
        except BaseException as error:
            kind = type(error).__name__ if isinstance(error, PyrustNNError) else None
            message = str(error) if kind else f"{type(error).__name__}: {error}"
            _core.log(logging.ERROR, __name__, message, "always")
            with contextlib.suppress(Exception):
                processes.store.set(f"error/{processes.rank}", json.dumps({"kind": kind, "message": message}))
        return False


def next_item() -> dict[str, Any]:
    """The next item of rank 0; takes part in a step if it is one."""
    global _heard
    item: dict[str, Any] = json.loads(awaited(torchrun_store(), f"item/{_heard}"))
    _heard += 1
    if plan := item.get("plan"):
        processes = torchrun_step(_heard - 1)
        run(plan, processes, Path(plan["about"]["step_folder"]) / f"rank-{processes.rank}.log")
    return item


def follow() -> int:
    """Follow rank 0's command to its end, and return its status."""
    while "end" not in (item := next_item()):
        pass
    return int(item["end"])


def follow_step() -> str:
    """Follow rank 0 to the end of its next step, and return its summary as JSON. Called by Rust in a host that torchrun started."""
    while "summary" not in (item := next_item()):
        pass
    return json.dumps(item["summary"])


def say_to_workers(item: str) -> None:
    """Tell the processes that torchrun started of an item (JSON). Called by Rust in rank 0."""
    publish(json.loads(item))
