"""The process's environment while a step runs: what libraries read from `os.environ`, and the network, which `--offline` denies.

`HF_HUB_OFFLINE` has no effect if it is set after huggingface_hub was imported. `local_files_only=True` and an audit
hook on sockets work at any time, so they are used too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from pyrust_nn import _core

MODEL_SOURCES: dict[str, str] = {}
"""Folders from which this step read models that are not given by folder (`builtin:tiny`, hub names). Rust hashes them."""

_OFFLINE = threading.Event()
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
_HOOK_INSTALLED = threading.Event()


@contextlib.contextmanager
def environment_variables(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set these in `os.environ` (None: remove), and restore the earlier values afterwards."""
    before = {name: os.environ.get(name) for name in values}
    _set_variables(values)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def step_environment(offline: bool) -> Iterator[None]:
    """Set what libraries read from the environment: no telemetry, and no network if `offline`."""
    # By default torch's threads spin for milliseconds while they wait. If anything else runs on the machine, small models
    # become ten times slower. Some microseconds keep most of what spinning gains on an idle machine.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # By default oneDNN keeps a thousand kernels of a megabyte each, and every micro-batch length needs some of its own.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    values: dict[str, str | None] = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if offline:
        values |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        # A proxy on this machine would pass data on to others.
        values |= dict.fromkeys(name for name in os.environ if name.lower() in _PROXIES)
        if not _HOOK_INSTALLED.is_set():
            _HOOK_INSTALLED.set()
            sys.addaudithook(deny_network)  # a hook cannot be removed, so it checks whether the step is offline
        _OFFLINE.set()
    try:
        with environment_variables(values):
            yield
    finally:
        _OFFLINE.clear()


def deny_network(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: refuse connections and host lookups while a step is offline, except on this machine."""
    # The event is compared first: other events come while Python shuts down, when this module's names are gone.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg") and _OFFLINE.is_set():
        address = args[0] if event == "socket.getaddrinfo" else args[-1]
        if _is_local(address, lookup=event == "socket.getaddrinfo"):
            return
        raise _core.ModelError(
            "a connection to the network was attempted although the step is offline; use a folder, or a model that was downloaded before"
        )


def _is_local(address: Any, *, lookup: bool) -> bool:
    """Whether an address is on this machine: of a Unix socket (a path), of the loopback interface, or none.

    lookup: whether `address` is a host to look up. A number needs no lookup.
    """
    if address is None or (isinstance(address, (str, bytes)) and not lookup):
        return True
    host = address if lookup else address[0] if isinstance(address, tuple) and address else None
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str):
        return not lookup and not isinstance(address, tuple)  # such as netlink
    if host in ("", "localhost"):
        return True
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return lookup or number.is_loopback or number.is_unspecified
