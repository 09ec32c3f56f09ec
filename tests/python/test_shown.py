"""What scripts, models and data may print, name and return: shown escaped, kept whole, and never taken for something else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]
RECORD = re.compile(r"^\d{4}-\d\d-\d\dT\S+ \[(\w+) *\] ", re.MULTILINE)
FORGED = r"x\r2026-01-01T00:00:00.000Z [ERROR] own: forged\n2026-01-01T00:00:00.000Z [ERROR] own: forged\x1b[2J\x9b31m\u202e"


def run_script(cli: Cli, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script of one function."""
    Path("own.py").write_text("import logging, os, subprocess, sys\n" + text, encoding="utf-8")
    return cli("script", "own.py", "--session", "s", "--overwrite", *words)


def summary() -> dict[str, Any]:
    """Of the last run."""
    found: dict[str, Any] = json.loads(Path("runs/s/script/summary.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    "way",
    [
        f'logging.getLogger("a").warning("{FORGED}")',
        f'logging.getLogger("a\\n2026-01-01T00:00:00.000Z [ERROR] b").warning("{FORGED}")',
        f'print("{FORGED}")',
        f'raise ValueError("{FORGED}")',
        f'session.progress(1, 1, "{FORGED}")',
    ],
)
def test_no_text_forges_a_record_or_steers_the_terminal(way: str, cli: Cli) -> None:
    done = run_script(cli, f"def run(params, session):\n    {way}\n")
    log = Path("runs/s/pipeline.log").read_text(encoding="utf-8")
    errors = [kind for kind in RECORD.findall(log) if kind == "ERROR"]
    assert len(errors) == ("raise" in way), log
    for shown in (log, done.stderr, done.stdout, cli("status", "s").stdout):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown), shown
        assert r"\x1b[2J" in shown or shown in (done.stdout,), shown


def test_a_streamed_answer_is_shown_escaped(cli: Cli) -> None:
    done = run_script(cli, 'def run(params, session):\n    session.stream("a\\tb\\n\\x1b]52;c;aGk=\\x07")\n')
    assert "\x1b" not in done.stdout + done.stderr


def test_what_utf8_cannot_encode_is_shown_escaped(cli: Cli) -> None:
    text = (
        "def run(params, session):\n    bad = b'\\xff'.decode('utf-8', 'surrogateescape')\n    print(bad, end='')\n"
        "    logging.getLogger(bad).warning(bad)\n    session.stream(bad)\n    session.progress(1, 1, bad)\n"
    )
    done = run_script(cli, text)
    assert done.returncode == 0, done.stderr
    assert Path("runs/s/pipeline.log").read_text(encoding="utf-8").count(r"\udcff") >= 4


def test_streams_have_what_libraries_use(cli: Cli) -> None:
    text = (
        "def run(params, session):\n    sys.stdout.buffer.write('über\\n'.encode())\n    sys.stdout.reconfigure(line_buffering=True)\n"
        "    subprocess.run(['true'], stdout=sys.stdout, stderr=sys.stderr, check=True)\n    print('\\ud800')\n"
        "    return {'metrics': {'errors': sys.stdout.errors, 'encoding': sys.stdout.encoding}}\n"
    )
    done = run_script(cli, text)
    assert done.returncode == 0, done.stderr
    assert summary()["metrics"] == {"errors": "backslashreplace", "encoding": "utf-8"}
    assert "über" in Path("runs/s/pipeline.log").read_text(encoding="utf-8")


def test_many_small_writes_are_one_line(cli: Cli) -> None:
    # Quadratic work would take minutes here.
    done = run_script(cli, "def run(params, session):\n    for _ in range(1_000_000):\n        print('.', end='')\n    print('end')\n")
    assert done.returncode == 0, done.stderr
    assert "." * 1_000_000 + "end\n" in Path("runs/s/pipeline.log").read_text(encoding="utf-8")


FAULTS = {
    "{'metrics': {'loss': float('nan'), 'rows': 3}}": "metrics.loss is nan",
    "{'metrics': {'loss': [1.0, float('-inf')], 'rows': 3}}": "metrics.loss[1] is -inf",
    "{'metrics': {'loss': deep(), 'rows': 3}}": "nested deeper than",
    "{'metrics': {'loss': itself(), 'rows': 3}}": "contains itself",
}


@pytest.mark.parametrize("result", FAULTS)
def test_a_value_that_json_cannot_hold_fails_the_step_and_the_rest_is_kept(result: str, cli: Cli) -> None:
    text = (
        "def deep():\n    value = 1\n    for _ in range(100_000):\n        value = [value]\n    return value\n"
        "def itself():\n    value = []\n    value += [value, value]\n    return value\n"
        "def run(params, session):\n    (session.step_folder / 'made.txt').touch()\n"
        f"    return {{'outputs': {{'model': 'made.txt'}}, **{result}}}\n"
    )
    done = run_script(cli, text)
    assert done.returncode == 1
    found = summary()
    assert found["error"]["kind"] == "script" and FAULTS[result] in found["error"]["message"]
    assert found["metrics"]["rows"] == 3 and found["outputs"] == {"model": "script/made.txt"}


def test_in_a_python_program_too(tmp_path: Path) -> None:
    Path("own.py").write_text("def run(params, session):\n    return {'metrics': {'loss': float('nan')}}\n", encoding="utf-8")
    with pytest.raises(pyrust_nn.ScriptError, match=r"metrics.loss is nan"):
        pyrust_nn.run_script("s", "own.py")
