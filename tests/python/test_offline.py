"""`--offline`: nothing leaves the machine, whatever program tries; connections to the machine itself stay allowed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]


def own_address() -> str:
    """An address of this machine that is not of the loopback interface: a connection to it succeeds unless it is refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has only the loopback interface")
        return str(probe.getsockname()[0])


@pytest.fixture
def server() -> Iterator[int]:
    """A server outside the step that answers on every address; its port."""
    with socket.create_server(("", 0)) as listening:
        listening.settimeout(0.2)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    continue
                with connection:
                    connection.settimeout(5)
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        stop.set()
        thread.join()


# Prints how each attempt ended. It uses no module of this package and does not know that it is offline.
CHILD = """
import os, socket, sys
def attempt(name, call):
    try:
        call()
        print(name, "reached")
    except OSError as error:
        print(name, type(error).__name__)
address, port = sys.argv[1], int(sys.argv[2])
def connect(host, family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(10)
        s.connect((host, port))
def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (address, port))
def fast_open():
    with socket.socket(socket.AF_INET) as s:
        s.sendto(b"x", 0x20000000, (address, port))
def slow():
    with socket.socket() as s:
        s.setblocking(False)
        code = s.connect_ex((address, port))
        if code not in (0, 115):
            raise OSError(code, "refused")
attempt("other", lambda: connect(address))
attempt("nonblocking", slow)
attempt("mapped", lambda: connect("::ffff:" + address, socket.AF_INET6))
attempt("datagram", datagram)
attempt("fastopen", fast_open)
attempt("loopback", lambda: connect("127.0.0.1"))
attempt("name", lambda: connect("localhost"))
a, b = socket.socketpair()
a.sendmsg([b"x"])
print("unix", b.recv(1).decode())
print("proxy", sorted(name for name in os.environ if name.lower().endswith("_proxy")))
print("hub", os.environ.get("HF_HUB_OFFLINE"))
"""

SCRIPT = """
import subprocess, sys
PARAMS = {"child": "", "address": "", "port": "", "out": "", "python": ""}
def run(params, session):
    # A child of a child, with its own environment's Python.
    nested = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    done = subprocess.run([params.python, "-c", nested, params.python, "-c", open(params.child).read(), params.address, str(params.port)],
        capture_output=True, text=True)
    text = done.stdout + done.stderr
    if params.address and __import__("shutil").which("curl"):
        for host in (params.address, "127.0.0.1"):
            got = subprocess.run(["curl", "--silent", "--max-time", "10", f"http://{host}:{params.port}/"], capture_output=True, text=True)
            text += f"curl {host} {got.stdout or got.returncode}\\n"
    open(params.out, "w").write(text)
    return {}
"""


def outcome(tmp_path: Path, run: Callable[[Path, dict[str, Any]], None], port: int) -> dict[str, str]:
    """How each attempt of the child ended."""
    script, child, out = (tmp_path / name for name in ("net.py", "child.py", "out.txt"))
    script.write_text(SCRIPT)
    child.write_text(CHILD)
    run(script, {"child": child, "address": own_address(), "port": port, "out": out, "python": sys.executable})
    lines = [line.rsplit(" ", 1) for line in out.read_text().splitlines()]
    return {name: how for name, how in lines}


ONLINE = {"other", "nonblocking", "mapped", "datagram", "loopback", "name"}


def by_cli(cli: Cli, runs: Path, *flags: str, **env: str) -> Callable[[Path, dict[str, Any]], None]:
    """Runs the script from the command line."""

    def run(script: Path, params: dict[str, Any]) -> None:
        words = [word for name, value in params.items() for word in ("--param", f"{name}={value}")]
        done = cli("script", script, *words, "--session", "s", "--runs-dir", runs, *flags, env={**os.environ, **env})
        assert done.returncode == 0, done.stderr

    return run


def test_children_of_the_command_line_reach_this_machine_only(tmp_path: Path, runs: Path, cli: Cli, server: int) -> None:
    found = outcome(tmp_path, by_cli(cli, runs, "--offline", HTTPS_PROXY="http://127.0.0.1:1", all_proxy="x"), server)
    assert "offline: connections to other machines are refused, those of child processes too" in (runs / "s/pipeline.log").read_text()
    assert {name for name in ONLINE if found[name] == "reached"} == {"loopback", "name"}, found
    assert found["fastopen"] != "reached"
    assert (found["unix"], found["proxy"], found["hub"]) == ("x", "[]", "1")
    if shutil.which("curl"):
        assert found["curl 127.0.0.1"] == "hello" and found[f"curl {own_address()}"] == "7", found


def test_without_it_all_are_reached(tmp_path: Path, runs: Path, cli: Cli, server: int) -> None:
    """The same attempts succeed, so it is the filter that refuses them."""
    found = outcome(tmp_path, by_cli(cli, runs), server)
    assert {name for name in ONLINE if found[name] == "reached"} == ONLINE, found
    assert found["hub"] == "None"


@pytest.mark.parametrize("second", ["true", "false"])
def test_a_pipeline_has_the_filter_if_all_its_steps_are_offline(second: str, tmp_path: Path, runs: Path, cli: Cli, server: int) -> None:
    def run(script: Path, params: dict[str, Any]) -> None:
        table = "\n".join(f'{name} = "{value}"' for name, value in params.items())
        (tmp_path / "p.toml").write_text(
            f'[[step]]\ntask = "script"\nscript = "{script}"\noffline = true\n[step.params]\n{table}\n'
            f'[[step]]\ntask = "quantize_model"\nname = "two"\nmodel = "builtin:tiny"\noffline = {second}\n'
        )
        done = cli("run", tmp_path / "p.toml", "--session", "s", "--runs-dir", runs)
        assert "step script succeeded" in done.stderr, done.stderr

    found = outcome(tmp_path, run, server)
    assert (found["other"] == "reached") is (second == "false")
    assert found["loopback"] == "reached"


def test_no_filter_in_a_python_host(tmp_path: Path, runs: Path, server: int) -> None:
    def run(script: Path, params: dict[str, Any]) -> None:
        pyrust_nn.run_script("s", script, params={name: str(value) for name, value in params.items()}, runs_dir=runs, offline=True)

    found = outcome(tmp_path, run, server)
    assert found["other"] == "reached" and found["hub"] == "1"
    assert "but not those of programs that it starts" in (runs / "s/pipeline.log").read_text()
    with socket.create_connection((own_address(), server)):
        pass  # the host itself is as before


@pytest.mark.parametrize("interface", ["CLI", "Python"])
def test_python_s_own_connections(interface: str, tmp_path: Path, runs: Path, cli: Cli, server: int) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        "import socket\n"
        "def run(params, session):\n"
        f"    for host in ('127.0.0.1', 'localhost'):\n"
        f"        socket.create_connection((host, {server}), 10).close()\n"
        "    for call in (\n"
        f"        lambda: socket.create_connection(({own_address()!r}, {server}), 10),\n"
        "        lambda: socket.getaddrinfo('example.com', 80),\n"
        f"        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ({own_address()!r}, {server})),\n"
        "    ):\n"
        "        try:\n"
        "            call()\n"
        "        except Exception as error:\n"
        "            print(type(error).__name__)\n"
        "        else:\n"
        "            raise AssertionError('reached')\n"
        "    return {'metrics': {'done': 1}}\n"
    )
    if interface == "CLI":
        done = cli("script", script, "--session", "s", "--runs-dir", runs, "--offline")
        assert done.returncode == 0, done.stderr
    else:
        assert pyrust_nn.run_script("s", script, runs_dir=runs, offline=True)["metrics"] == {"done": 1}
