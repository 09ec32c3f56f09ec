"""The process above another project's server: it starts the program, says when it answers, and ends it when standard input ends.

This file is executed as it is, by the environment's Python, and imports nothing of this package. The first line of standard input is
a JSON object: `command`, `environment` (variables that are added), `port` and `health`, a path that answers 200 when the server is
ready. Standard output is a line `READY ` with the server's address and `device`. What the program says is on standard error.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

PR_SET_PDEATHSIG = 1
PATIENCE = 10
"""Seconds that the program has to end by itself."""


def end_with_parent():
    """If this process is killed, so is the program (prctl(2), Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def is_ready(url):
    """Whether the server answers."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def stop(program):
    """End the program and what it started."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(program.pid, end)
            program.wait(PATIENCE)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def main():
    """Start, say where, wait."""
    answer = os.dup(1)
    os.dup2(2, 1)  # nothing else may write there
    asked = json.loads(sys.stdin.readline())
    environment = {**os.environ, **asked["environment"]}
    try:
        program = subprocess.Popen(
            asked["command"], env=environment, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_parent
        )
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None

    def ended_by_itself():
        status = program.wait()
        os._exit(status if status >= 0 else 128 - status)

    threading.Thread(target=ended_by_itself, daemon=True).start()
    address = f"http://127.0.0.1:{asked['port']}"

    def say_when_ready():
        while not is_ready(address + asked["health"]):
            time.sleep(0.05)
        os.write(answer, f"READY {address} {asked['device']}\n".encode())

    threading.Thread(target=say_when_ready, daemon=True).start()
    sys.stdin.read()  # until the parent ends, however it ends
    stop(program)
