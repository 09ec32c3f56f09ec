"""The outputs that the documentation shows are what a reader sees in a terminal of 80 columns, without its colours. Only paths and
answers that are longer stay in one line, which the terminal breaks anywhere.

Each `console` block with an output is run in a terminal, page after page in one folder, and its last screen compared. `…` alone in a
line stands for any lines. Times, rates, losses and the sizes of folders depend on the machine and are not compared.

With PYRUST_NN_GENERATE=1 (`make examples`) the shown lines are replaced by the program's, with the times of this run; where more than
numbers changed, by all lines.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from terminal import Terminal

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
# In this order: the later pages use what the tutorial made.
PAGES = ("tutorial.md", "gguf.md", "sessions.md", "scripts.md", "pipelines.md", "check.md", "data.md")
BLOCK = re.compile(r"^(?P<indent> *)```console\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
ANY = "…"
CACHE = "~/.cache/pyrust-nn"
FAULTS = """[
  {"messages": [
    {"role": "human", "content": "Hello"},
    {"role": "assistant", "content": ""}]},
  {"messages": [{"role": "user", "content": "Hello"}]},
  {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": 7, "train": "no"}]}
]
"""
MASKS = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+Z)?", "<time>"),
    (r"\b\d+(\.\d+)? (s|min|h|d)\b", "<duration>"),
    (r"\b\d+:\d\d( left)?\b", "<remaining>"),
    (r"(?<=tokens_per_second) +\S+", " <rate>"),
    (r"(?<=_loss) +\S+", " <loss>"),
    (r"(?<=peak_memory_bytes) +\S+ \S+", " <memory>"),
    (r"\b\d+\.\d{3,}\b", "<number>"),
    (r"\b\d+(\.\d+)? (kB|MB|[KMG]iB)(?= +(<|\d|$)| of )", "<size>"),
    (r"\b[0-9a-f]{16,64}\b", "<hash>"),
    (r"-{3,}|\s+", " "),
)


@dataclass
class Example:
    """A command and the lines that a page shows below it."""

    command: str
    shown: list[str]


def examples(body: str) -> list[Example]:
    """The commands of a block; lines that end in a backslash continue."""
    found: list[Example] = []
    continued = False
    for line in body.splitlines():
        if continued:
            found[-1].command += "\n" + line
        elif line.startswith("$ "):
            found.append(Example(line[2:], []))
        else:
            found[-1].shown.append(line)
            continue
        continued = line.endswith("\\")
    return found


def masked(line: str, *, numbers: bool = False) -> str:
    """What of a line is compared; with `numbers`, no number is."""
    for pattern, name in MASKS:
        line = re.sub(pattern, name, line)
    return re.sub(r"\d[\d.,]*", "#", line).strip() if numbers else line.strip()


def matched(shown: list[str], real: list[str], *, numbers: bool = False) -> list[str] | None:
    """`shown` with its lines replaced by the real ones; None if they do not match."""
    wanted, there = ([line if line.strip() == ANY else masked(line, numbers=numbers) for line in lines] for lines in (shown, real))
    result: list[str] = []
    at, anywhere = 0, False
    parts: list[list[int]] = [[]]
    for number, line in enumerate(wanted):
        if line.strip() == ANY:
            parts += [[]]
        else:
            parts[-1].append(number)
    for number, part in enumerate(parts):
        size, last = len(part), number == len(parts) - 1
        starts = [len(there) - size] if last and anywhere and size else range(at, len(there) - size + 1) if anywhere else [at]
        start = next((start for start in starts if start >= at and there[start : start + size] == [wanted[i] for i in part]), None)
        if start is None or (last and not anywhere and size != len(there)):
            return None
        result += real[start : start + size] + ([] if last else [next(line for line in shown if line.strip() == ANY)])
        at, anywhere = start + size, True
    return result


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """A cache whose name is as long as that of the pages, so that lines are broken at the same places."""
    folder = Path(tempfile.mkdtemp(prefix="cache", dir="/tmp"))
    assert len(str(folder)) == len(CACHE)
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(f"{folder}-home", ignore_errors=True)


@pytest.fixture(scope="module")
def folder(cache: Path) -> Path:
    """Where the pages' commands run, with the files that the pages show. Its name has always the same length."""
    folder = cache.parent / f"{cache.name}-home" / "my-model"
    folder.mkdir(parents=True)
    script = (DOCS / "scripts.md").read_text(encoding="utf-8")
    (folder / "count.py").write_text(re.findall(r"```python\n(.*?)```", script, re.DOTALL)[0], encoding="utf-8")
    pipeline = (DOCS / "pipelines.md").read_text(encoding="utf-8")
    (folder / "mine.toml").write_text(re.findall(r"```toml\n(.*?)```", pipeline, re.DOTALL)[0], encoding="utf-8")
    (folder / "faults.json").write_text(FAULTS, encoding="utf-8")
    return folder


def output(command: str, folder: Path, cache: Path, binary: Path) -> list[str]:
    """What a terminal of 80 columns without colours shows of it in the end, with the paths as the pages have them."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "pyrust-nn", command
    # `cache list` shows these commands' entries alone.
    terminal = Terminal(binary, *words[1:], lines=400, cwd=folder, breaks=False, NO_COLOR="1", PYRUST_NN_CACHE=str(cache))
    terminal.finish(600)
    return [line.replace(str(folder), "…/my-model").replace(str(cache), CACHE) for line in terminal.lines]


def test_the_pages_show_what_the_program_prints(folder: Path, cache: Path, binary: Path) -> None:
    # One test, for each page builds on the ones before it.
    wrong = []
    for name in PAGES:
        page = DOCS / name
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            indent = block["indent"]
            body = "\n".join(line.removeprefix(indent) for line in block["body"].splitlines())
            found = examples(body)
            if not any(one.shown for one in found):
                continue
            for one in found:
                if one.command.startswith(("mkdir", "cd ")):
                    continue
                real = output(one.command, folder, cache, binary)
                same = matched(one.shown, real)
                if same is None:
                    wrong.append(f"{name}: $ {one.command}\n" + "\n".join(f"  {line}" for line in real[:60]))
                if os.environ.get("PYRUST_NN_GENERATE") == "1":
                    new = same or matched(one.shown, real, numbers=True) or real
                    old, made = ("\n".join(indent + line for line in ["$ " + one.command, *lines]) + "\n" for lines in (one.shown, new))
                    page.write_text(page.read_text(encoding="utf-8").replace(old, made), encoding="utf-8")
    assert not wrong, "these outputs differ; `make examples` writes the new numbers:\n\n" + "\n\n".join(wrong)
