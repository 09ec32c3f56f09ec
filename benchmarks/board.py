"""What the report and the board cost: many sessions, many logged steps, many open pages.

    python benchmarks/board.py              # `make bench-board`, about five minutes

Four measurements, of the binary:

* the list of 1,000 sessions, as its page is answered: the first time, without an index, and then;
* the report of a session with 100,000 logged steps: seconds and bytes;
* the page of such a session while it runs and logs 5 steps a second: seconds until it is answered, and how often it is renewed;
* the processor time of the board while 50 pages of that session, and 50 of one that trains, are open, as a share of one core: what they
  take from a training on the same machine. The training's own rate is measured too, in turns with and without the pages.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from machine import described, save

CHECKOUT = Path(__file__).resolve().parents[1]
TIME = "2026-01-01T00:00:00.000Z"
SESSIONS, STEPS, PAGES = 1_000, 100_000, 50
# Logs many steps at once, and then 5 a second, until it is stopped.
GROWING = """
import time
PARAMS = {'steps': 0}
def line(step):
    rates = {'tokens_per_second': 1e4 + step % 100, 'target_tokens_per_second': 5e3 + step % 50, 'peak_memory_bytes': 7e9}
    return {'step': step, 'epoch': step / 30000, 'loss': 4.0 / step ** 0.1, 'learning_rate': 1e-4, 'grad_norm': 1.0 + step % 3, **rates}
def run(params, session):
    for step in range(1, params.steps + 1):
        session.metric(line(step))
    while True:
        step += 1
        session.metric(line(step))
        time.sleep(0.2)
"""


def write_session(runs: Path, name: str) -> None:
    """A session with one training that has ended."""
    folder = runs / name / "tune"
    folder.mkdir(parents=True)
    summary: dict[str, Any] = {"task": "finetune_lora", "session": name, "step": "tune", "status": "Success", "outputs": {}, "result": None}
    summary |= {"params": {"model": "Qwen/Qwen3-0.6B"}, "metrics": {"first_loss": 3.0, "last_loss": 1.0}, "error": None}
    (folder / "summary.json").write_text(json.dumps(summary | {"started_at": TIME, "finished_at": TIME, "duration_s": 60.0}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step, "loss": 3 / step}) + "\n" for step in range(1, 101)))
    attempt = {"task": "finetune_lora", "step": "tune", "argv": [], "pid": 1, "started_at": TIME, "finished_at": TIME, "status": "Success"}
    record = {"id": name, "created": TIME, "version": "0.1.0", "state": "success", "invocations": [attempt | {"error": None}]}
    (runs / name / "session.json").write_text(json.dumps(record))


@contextmanager
def started(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is interrupted at the end."""
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def get(url: str) -> tuple[float, str]:
    """Seconds until a page is there, and the page."""
    parts = urlsplit(url)
    start = time.perf_counter()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    connection.request("GET", parts.path)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        sys.exit(f"{url} answered {answer.status}: {text[:200]}")
    return time.perf_counter() - start, text


class Listener(threading.Thread):
    """An open page: it receives the changes, and counts them and their bytes."""

    def __init__(self, url: str) -> None:
        """Load the page, and listen to where it listens."""
        super().__init__(daemon=True)
        _, page = get(url)
        events, shown = (re.search(rf'data-{name}="([^"]*)"', page) for name in ("events", "shown"))
        if events is None or shown is None:
            sys.exit(f"{url} listens to nothing")
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        self.connection.request("GET", f"{events[1]}&shown={shown[1]}".replace("&amp;", "&"))
        self.socket = self.connection.sock  # which the answer may take over
        self.answer = self.connection.getresponse()
        self.changes, self.bytes = 0, 0

    def run(self) -> None:
        """Receive until the connection is closed."""
        try:
            while line := self.answer.readline():
                self.changes += line.startswith(b"data:")
                self.bytes += len(line)
        except OSError:
            return

    def close(self) -> None:
        """Close the page, which ends the thread."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self.connection.close()


def processor_seconds(process: subprocess.Popen[str]) -> float:
    """Of a process so far, in user and system mode."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listened(board: subprocess.Popen[str], url: str, seconds: float) -> dict[str, float]:
    """The cost of a session's open pages."""
    pages = [Listener(url) for _ in range(PAGES)]
    for page in pages:
        page.start()
    time.sleep(3)  # the pages' beginning is no part of it
    before, start = processor_seconds(board), time.perf_counter()
    changes = pages[0].changes
    time.sleep(seconds)
    taken, passed = processor_seconds(board) - before, time.perf_counter() - start
    made = {
        "pages": PAGES,
        "board_percent_of_a_core": 100 * taken / passed,
        "seconds_between_changes": passed / max(pages[0].changes - changes, 1),
        "bytes_of_a_page": median(page.bytes for page in pages),
    }
    for page in pages:
        page.close()
    return made


def training(binary: Path, runs: Path, session: str) -> list[str | Path]:
    """The command of a training of half a minute."""
    words = f"finetune-lora -m builtin:tiny --session {session} --num-epochs 60 --logging-steps 1 --sample-prompts 0 --offline".split()
    return [binary, *words, "--dataset-path", CHECKOUT / "data.json", "--runs-dir", runs, "--python-env", Path(sys.prefix)]


def rate(runs: Path, session: str) -> float:
    """The training's median rate after its first steps."""
    lines = [json.loads(line) for line in (runs / session / "finetune_lora/metrics.jsonl").read_text().splitlines()]
    return median(line["tokens_per_second"] for line in lines[20:] if "tokens_per_second" in line)


def main() -> None:
    """Measure one after the other, print and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=CHECKOUT / "target/release/pyrust-nn")
    parser.add_argument("--rounds", type=int, default=3, help="trainings with and without open pages")
    parser.add_argument("--seconds", type=float, default=60, help="how long pages stay open")
    parser.add_argument("--no-save", action="store_true", help="print alone")
    arguments = parser.parse_args()
    if not arguments.binary.is_file():
        parser.error(f"{arguments.binary} is not there; `make build` makes it")
    binary = arguments.binary.resolve()
    results: dict[str, Any] = {}

    def note(name: str, values: dict[str, float]) -> None:
        results[name] = values
        print(f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in values.items()), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "many"
        for number in range(SESSIONS):
            write_session(runs, f"session-{number:04}")
        with started(binary, "board", "--runs-dir", runs) as board:
            url = board.stdout.readline().strip() if board.stdout else ""
            first, _ = get(url)
            note("list", {"sessions": SESSIONS, "first_seconds": first, "seconds": median(get(url)[0] for _ in range(20))})
        runs, script = Path(folder) / "runs", Path(folder) / "growing.py"
        script.write_text(GROWING)
        words = f"--session grows --param steps={STEPS} --python-env".split()
        grows = [binary, "script", script, *words, sys.prefix, "--runs-dir", runs]
        with started(*grows), started(binary, "board", "--runs-dir", runs) as board:
            url = board.stdout.readline().strip() if board.stdout else ""
            metrics = runs / "grows/script/metrics.jsonl"
            while not metrics.is_file() or metrics.stat().st_size < STEPS * 100:
                time.sleep(0.5)
            time.sleep(5)
            start = time.perf_counter()
            subprocess.run([binary, "report", "grows", "--runs-dir", runs], check=True, stdout=subprocess.DEVNULL)
            taken = time.perf_counter() - start
            note("report", {"steps": STEPS, "seconds": taken, "bytes": (runs / "grows/report.html").stat().st_size})
            page = f"{url}session/grows"
            times = [get(page) for _ in range(5)]
            note("live_page", {"steps": STEPS, "seconds": median(one for one, _ in times), "bytes": len(times[0][1].encode())})
            note("open_pages_of_many_steps", listened(board, page, arguments.seconds))
        rates: dict[bool, list[float]] = {True: [], False: []}
        costs = []
        with started(binary, "board", "--runs-dir", runs) as board:
            url = board.stdout.readline().strip() if board.stdout else ""
            for number in range(2 * arguments.rounds):
                session, is_watched = f"trains-{number}", number % 2 == 0
                process = subprocess.Popen(
                    [str(word) for word in training(binary, runs, session)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                metrics = runs / session / "finetune_lora/metrics.jsonl"
                while not metrics.is_file() and process.poll() is None:
                    time.sleep(0.1)
                if is_watched:
                    costs.append(listened(board, f"{url}session/{session}", 10))
                if process.wait():
                    sys.exit(f"the training failed; see {runs}/{session}/pipeline.log")
                rates[is_watched].append(rate(runs, session))
        note("open_pages_of_a_training", {key: median(cost[key] for cost in costs) for key in costs[0]})
        with_pages, without = median(rates[True]), median(rates[False])
        note("training", {"tokens_per_second": without, "with_pages": with_pages, "ratio": with_pages / without})
    if not arguments.no_save:
        save("board", {"machine": described(), **results})


if __name__ == "__main__":
    main()
