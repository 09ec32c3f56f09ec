"""Every change of the file system that a pipeline makes fails once, and nothing is lost.

`python tests/faults/sweep.py` runs a small pipeline that has each kind of step, and lists its points: all calls of libc that change
a file or folder of the session, those of Rust, Python and the libraries alike (`shim.c`). Then it runs the pipeline again for each
point, which fails, is cut short, or ends the process before or after it; looks at what is left; and resumes the session. Each case
must end as the run without a fault did, in identical files, and until then everything that was done stays whole.

Each run is a fork of one process that has imported the libraries, so that it takes a second or two.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SESSION = "faults"
SECONDS = 600
MODES = {"fail": 1, "short": 2, "kill": 3, "torn": 4, "full": 5}
"""What happens at a point, as `enum mode` of shim.c: an error; half of a write; SIGKILL before it, which is after the point before it, or
after half of a write; a disk that is full from there on."""
SIZED = ("short", "torn")
"""The modes that only a write has."""
VARIES = re.compile(r"(^|/)(session\.json|pipeline\.log|report\.html|begun\.json|manifest\.json|proof\.json|lock)$")
"""Files with times, process ids or durations in them: only that they exist is compared."""
READ = {"summary.json": ("status", "steps", "artifacts"), "metrics.jsonl": ("step", "loss"), "answers.jsonl": ("text",)}
"""Files of which only these keys are compared."""
PIPELINE = """
session = "faults"
model = "builtin:tiny"
device = "cpu"
dataset_path = "data.json"
verify_tokens = 32

[[step]]
task = "finetune_full"
num_epochs = 2
batch_size = 4
save_steps = 2
save_total_limit = 1

[[step]]
task = "finetune_lora"
model = "@finetune_full"
lora_rank = 2
target_modules = ["q_proj"]
num_epochs = 2
batch_size = 4
save_steps = 2

[[step]]
task = "merge"
model = "@finetune_lora"

[[step]]
task = "convert_model_to_gguf"
model = "@merge"
outtype = "q8_0"

[[step]]
task = "convert_lora_to_gguf"
adapter = "@finetune_lora"

[[step]]
task = "quantize_model"
model = "@merge"
bits = 16

[[step]]
task = "inference"
model = "@merge"
prompt = "Hello"
max_new_tokens = 4
"""


@dataclass
class Ending:
    """How a run ended: by a signal, with an error, or well."""

    signal: str | None = None
    kind: str | None = None
    message: str | None = None
    passed: int = 0

    @property
    def well(self) -> bool:
        return self.signal is None and self.kind is None


@dataclass
class Case:
    point: int
    mode: str
    what: str
    ending: Ending = field(default_factory=Ending)
    findings: list[str] = field(default_factory=list)


class Shim:
    """The preloaded library, by its functions."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)

    def arm(self, root: Path, point: int, mode: str) -> None:
        self.library.fault_arm(str(root).encode(), ctypes.c_long(point), MODES[mode], errno.ENOSPC)

    def trace(self, root: Path, fd: int) -> None:
        self.library.fault_trace(str(root).encode(), fd)

    def disarm(self) -> int:
        self.library.fault_disarm()
        self.library.fault_passed.restype = ctypes.c_long
        return int(self.library.fault_passed())


def in_child(work: Callable[[], None], shim: Shim, output: Path) -> Ending:
    """Run `work` in a fork of this process."""
    from pyrust_nn import PyrustNNError

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        ending = Ending()
        try:
            work()
        except PyrustNNError as error:
            ending = Ending(kind=error.kind, message=str(error))
        except BaseException:
            ending = Ending(kind="python", message=traceback.format_exc())
        ending.passed = shim.disarm()
        os.write(writer, json.dumps(asdict(ending)).encode())
        os._exit(0)
    os.close(writer)
    until = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ending(kind="python", message=f"it had not ended after {SECONDS} s")
        time.sleep(0.005)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    if os.WIFSIGNALED(ended[1]):
        return Ending(signal=signal.Signals(os.WTERMSIG(ended[1])).name)
    return Ending(**json.loads(told))


def content(path: Path, name: str) -> Any:
    """What is compared of a file."""
    keys = READ.get(path.name)
    if keys is None:
        return "" if VARIES.search(name) else hashlib.sha256(path.read_bytes()).hexdigest()
    rows = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text(encoding="utf-8")]
    return [{key: row[key] for key in keys if key in row} for row in map(json.loads, rows)]


def tree(session: Path) -> dict[str, Any]:
    """The files of a session, by name, and what is compared of them."""
    files = sorted(path for path in session.rglob("*") if path.is_file())
    return {str(path.relative_to(session)): content(path, str(path.relative_to(session))) for path in files}


class Sweep:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.session = self.runs / SESSION
        self.shim = Shim()
        rows = [[{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"It is {i}."}] for i in range(12)]
        (folder / "data.json").write_text(json.dumps([{"messages": row} for row in rows]), encoding="utf-8")
        (folder / "pipeline.toml").write_text(PIPELINE, encoding="utf-8")
        self.wanted: dict[str, Any] = {}

    def run(self) -> None:
        import pyrust_nn

        os.chdir(self.folder)
        pyrust_nn.run_pipeline("pipeline.toml")

    def go_on(self) -> None:
        """What a user does after a fault: resume, or the same command again where nothing had begun."""
        import pyrust_nn

        os.chdir(self.folder)
        if not (self.session / "session.json").exists():
            pyrust_nn.run_pipeline("pipeline.toml")
        elif any(step["state"] != "success" for step in self.steps()) or len(self.steps()) < PIPELINE.count("[[step]]"):
            pyrust_nn.resume(SESSION)

    def steps(self) -> list[dict[str, Any]]:
        import pyrust_nn

        (found,) = pyrust_nn.list_sessions()
        return list(found["steps"])

    def points(self) -> list[str]:
        """Run without a fault: `number what path` of every point. Twice, since what is compared must not vary by itself."""
        trees = []
        for _ in range(2):
            shutil.rmtree(self.runs, ignore_errors=True)
            with tempfile.TemporaryFile() as listed:
                os.set_inheritable(listed.fileno(), True)
                ending = in_child(lambda: (self.shim.trace(self.runs, listed.fileno()), self.run())[-1], self.shim, self.folder / "output")
                assert ending.well, ending
                listed.seek(0)
                lines = listed.read().decode().splitlines()
            trees.append(tree(self.session))
        assert trees[0] == trees[1], {name for name in trees[0] if trees[0][name] != trees[1].get(name)}
        self.wanted = trees[0]
        return lines

    def case(self, line: str, mode: str) -> Case:
        """Run with a fault at a point, look, resume, compare."""
        number, what = line.split(" ", 1)
        case = Case(int(number), mode, what)
        shutil.rmtree(self.runs, ignore_errors=True)
        (self.folder / "output").unlink(missing_ok=True)
        work = lambda: (self.shim.arm(self.runs, case.point, mode), self.run())[-1]  # noqa: E731
        case.ending = in_child(work, self.shim, self.folder / "output")
        self.look(case)
        again = in_child(self.go_on, self.shim, self.folder / "output")
        if not again.well:
            case.findings.append(f"resume: {again}")
        made = tree(self.session) if self.session.is_dir() else {}
        case.findings += [
            f"after resume {name} is {'missing' if name not in made else 'another one'}"
            for name in self.wanted
            if made.get(name) != self.wanted[name]
        ]
        case.findings += [f"after resume there is {name}" for name in made if name not in self.wanted]
        return case

    def look(self, case: Case) -> None:
        """What must hold after the fault itself."""
        ending = case.ending
        if ending.kind not in (None, "io"):
            case.findings.append(f"an error of kind {ending.kind}: {ending.message}")
        if ending.kind == "io" and str(self.runs) not in str(ending.message) and SESSION not in str(ending.message):
            case.findings.append(f"no file is named: {ending.message}")
        if ending.signal is not None and not case.mode.startswith(("kill", "torn")):
            case.findings.append(f"ended by {ending.signal}")
        if case.mode == "short" and not ending.well:
            case.findings.append(f"half a write is an error: {ending.message}")
        begun = [path.parent for path in self.session.glob("*/begun.json")]
        if ending.kind is not None and "summary.json" not in case.what and (self.session / "session.json").is_file():
            case.findings += [f"{step.name} has no summary" for step in begun if not (step / "summary.json").is_file()]
        for summary in self.session.glob("*/summary.json"):
            try:
                done = json.loads(summary.read_text(encoding="utf-8"))["status"] == "Success"
            except (ValueError, KeyError) as cause:
                case.findings.append(f"{summary.parent.name}/summary.json cannot be read: {cause}")
                continue
            step = summary.parent
            if done:
                made = {f"{step.name}/{name}": kept for name, kept in tree(step).items()}
                wanted = {name: kept for name, kept in self.wanted.items() if name.startswith(f"{step.name}/")}
                case.findings += [f"success, but {name} is not whole" for name in wanted if made.get(name) != wanted[name]]


def distinct(lines: list[str]) -> list[str]:
    """The first and the last point of those that do the same with a file of the same name, but for random parts and numbers of it."""
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(re.sub(r"\.tmp\w+|\d+", "#", line.split(" ", 1)[1]), []).append(line)
    return sorted({line for same in found.values() for line in (same[0], same[-1])}, key=lambda line: int(line.split(" ")[0]))


def cases(lines: list[str], every: int) -> list[tuple[str, str]]:
    """The cases: each point in each mode that it can have, or every so many of them."""
    whole = [(line, mode) for line in lines for mode in MODES if mode not in SIZED or line.split(" ")[1] == "write"]
    return whole[::every]


def preloaded() -> None:
    """Start this program again with the shim, unless it is there."""
    if os.environ.get("PYRUST_NN_FAULT_SHIM"):
        return
    made = Path(tempfile.mkdtemp()) / "shim.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", made, HERE / "shim.c", "-ldl"], check=True)
    environment = {**os.environ, "PYRUST_NN_FAULT_SHIM": str(made), "LD_PRELOAD": str(made), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def import_libraries() -> None:
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all points, also those that differ in a number only")
    parser.add_argument("--every", type=int, default=1, help="take every so many cases only")
    parser.add_argument("--point", type=int, help="take this point only")
    parser.add_argument("--only", default="", help="take the points of this pattern only, such as 'remove .*/checkpoints/'")
    parser.add_argument("--mode", choices=list(MODES))
    parser.add_argument("--results", type=Path, help="write the figures there, as JSON")
    words = parser.parse_args()
    preloaded()
    import_libraries()
    folder = Path(tempfile.mkdtemp(prefix="faults-")).resolve()
    sweep = Sweep(folder)
    lines = sweep.points()
    points = [line for line in lines if words.point in (None, int(line.split()[0])) and re.search(words.only, line.split(" ", 1)[1])]
    taken = [(line, mode) for line, mode in cases(points if words.all else distinct(points), words.every) if words.mode in (None, mode)]
    failed = []
    for number, (line, mode) in enumerate(taken, start=1):
        case = sweep.case(line, mode)
        if case.findings:
            failed.append(case)
            print(f"{case.mode} at {line}: {case.ending}", *(f"  {finding}" for finding in case.findings[:6]), sep="\n", flush=True)
        if number % 50 == 0:
            print(f"{number} of {len(taken)}, {len(failed)} failed", flush=True)
    print(f"{len(lines)} points, {len(taken)} cases: {len(taken) - len(failed)} passed, {len(failed)} failed")
    if words.results:
        kinds = Counter(line.split()[1] for line in lines)
        figures = {
            "points": len(lines),
            "by_call": dict(kinds),
            "cases": len(taken),
            "taken_from": distinct(lines),
            "failed": [asdict(case) for case in failed],
        }
        words.results.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
