"""The processes of one step: who they are, how they find each other, and what they tell each other besides gradients.

Rank 0 is the process that owns the session; the others are workers, which run the same script and write nothing but their logs. All
meet at a store of torch's (a small server, in rank 0 or in torchrun's agent). Rank 0 starts the workers (`launcher`), or all were
started by `torchrun` or `srun`, which the environment tells (`torchrun_place`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from pyrust_nn import _core

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")

FOREVER = timedelta(days=365)
"""Waiting ends earlier if the other process does: the store's server, or the launcher, ends this one then."""


MEETING_SECONDS = 0.02
"""How often is looked whether all have come."""


class StepEndedError(Exception):
    """Rank 0 ended the step while this worker waited for it."""


@dataclass(frozen=True)
class ProcessPlace:
    """The place of a process among those of its step, and on its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


class Processes:
    """The processes of a step, as one of them sees them. Without a place it is alone."""

    def __init__(self, place: ProcessPlace | None = None, store: Callable[[], Store] | None = None) -> None:
        """`store` makes or finds the store, once it is needed: torch must be imported for it."""
        one = place or ProcessPlace(0, 1, 0, 1)
        self.rank, self.size, self.local_rank, self.local_size = one.rank, one.size, one.local_rank, one.local_size
        self._make_store, self._store = store, None
        self._asked = 0
        self.worker_ended = threading.Event()
        """Set in rank 0 when a worker that it started has ended too early."""
        self.abort: Callable[[], None] | None = None
        """Ends what this process waits for in a reduction, if that would not notice the end of another process."""

    @property
    def store(self) -> Store:
        """Where the processes meet."""
        if self._store is None:
            assert self._make_store
            self._store = self._make_store()
        return self._store

    @property
    def threads(self) -> int:
        """Threads to compute with: OMP_NUM_THREADS, else this process's part of the processors that it may use."""
        return threads_for(self.local_size)

    def rendezvous(self) -> None:
        """Return when all processes have come here. In rank 0 raises RuntimeError if a worker has ended instead."""
        self.store.set(f"here/{self.rank}", "")
        others = [f"here/{rank}" for rank in range(self.size)]
        while not self.store.check(others):
            if self.worker_ended.wait(MEETING_SECONDS):
                raise RuntimeError("a worker has ended")

    def broadcast_object(self, make: Callable[[], T]) -> T:
        """What `make` returns in rank 0 (a value of JSON); the workers wait for it. All call this in the same order."""
        if self.size == 1:
            return make()
        key = f"broadcast/{self._asked}"
        self._asked += 1
        if self.rank == 0:
            try:
                value = make()
            except BaseException:
                self.store.set(key, "")
                raise
            self.store.set(key, json.dumps(value))
            return value
        text = awaited(self.store, key)
        if not text:
            raise StepEndedError
        known: T = json.loads(text)
        return known


def threads_for(processes: int) -> int:
    """Threads of each of several processes on this machine: OMP_NUM_THREADS, else a part of the processors that this one may use."""
    with contextlib.suppress(ValueError):
        if (given := int(os.environ.get("OMP_NUM_THREADS", ""))) > 0:
            return given
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // processes)


def awaited(store: Store, key: str) -> str:
    """The value of a key, once there is one."""
    store.wait([key], FOREVER)
    value: bytes | str = store.get(key)
    return value.decode() if isinstance(value, bytes) else value


def torchrun_place() -> ProcessPlace | None:
    """This process's place if `torchrun`, or `srun` with MASTER_ADDR and MASTER_PORT, started several. Rust looks at the same variables."""
    place = _core.torchrun_place()
    return ProcessPlace(*place) if place else None


@functools.cache
def torchrun_store() -> Store:
    """The store of the processes that torchrun or srun started: the agent's, else one that rank 0 makes."""
    from torch.distributed import PrefixStore, TCPStore

    place = torchrun_place()
    assert place
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    # In a restart by torchrun the store has what the processes before said.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = TCPStore(host, port, place.size, is_master=place.rank == 0 and not agent, wait_for_workers=False)
    return PrefixStore(f"pyrust_nn/{attempt}", store)


def torchrun_step(number: int) -> Processes:
    """The processes that torchrun or srun started, in a step. `number`: how many items came before, so each step has keys of its own."""

    def store() -> Store:
        from torch.distributed import PrefixStore

        return PrefixStore(f"step/{number}", torchrun_store())

    return Processes(torchrun_place(), store)
