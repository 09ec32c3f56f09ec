"""Every kind of error, met on purpose: its name in the summary or document, its exit code, its Python class."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pyrust_nn

CHECKOUT = Path(__file__).resolve().parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]

SCRIPTS = {
    "script": "def run(params, session):\n    raise ValueError('of the script')\n",
    "interrupted": "import os, signal\ndef run(params, session):\n    os.kill(os.getpid(), signal.SIGINT)\n    session.progress(1, 1)\n",
    "proof": "import pyrust_nn\ndef run(params, session):\n    raise pyrust_nn.ProofError('another model')\n",
    "internal": "import pyrust_nn\ndef run(params, session):\n    raise pyrust_nn.InternalError('a fault of ours')\n",
}
WORDS: dict[str, list[str]] = {
    "usage": ["merge", "--model", "builtin:tiny", "--overwrite=perhaps"],
    "input": ["finetune-lora", "--model", "builtin:tiny", "--dataset-path", "nowhere.json"],
    "model": ["merge", "--model", "./nowhere"],
    "setup": ["quantize-model", "--model", "builtin:tiny", "--no-setup", "--python-env", "nowhere"],
    "busy": ["quantize-model", "--model", "builtin:tiny", "--session", "held"],
    "io": ["quantize-model", "--model", "builtin:tiny", "--runs-dir", "a_file/runs"],
    **{kind: ["script", f"{kind}.py"] for kind in SCRIPTS},
}


def documented() -> dict[str, tuple[int, str]]:
    """Exit code and Python class of each kind, from the page for users."""
    page = (CHECKOUT / "docs/sessions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+)[^|]* \| `(\w+)`", page, re.MULTILINE)
    return {kind: (int(code), name) for kind, code, name in rows}


def test_every_kind_is_met_below_and_has_its_class() -> None:
    classes = {
        value.kind: name
        for name, value in vars(pyrust_nn).items()
        if isinstance(value, type) and hasattr(value, "kind") and name != "PyrustNNError"
    }
    classes["interrupted"] = "KeyboardInterrupt"
    assert {kind: name for kind, (_, name) in documented().items()} == classes
    assert set(WORDS) == set(classes)


@pytest.mark.parametrize("kind", WORDS)
def test_a_kind_has_its_exit_code_and_says_its_name(kind: str, cli: Cli, tmp_path: Path) -> None:
    for name, text in SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "a_file").write_text("", encoding="utf-8")
    (tmp_path / "runs/held").mkdir(parents=True)
    with (tmp_path / "runs/held/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cli(*WORDS[kind], "--json")
    document = json.loads(done.stdout)
    assert document["error"]["kind"] == kind, done.stdout + done.stderr
    assert done.returncode == documented()[kind][0]
    assert document["error"]["message"].strip()


def test_the_texts_of_an_error_are_kept_even_with_the_word_SESSION(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "SESSION"
    folder.mkdir()
    cause = "OSError: /data/SESSION/a.json"
    failing = "def run(params, session):\n    raise OSError('/data/SESSION/a.json')\n"
    stopped = (
        "import os, signal\ndef run(params, session):\n    try:\n        raise OSError('/data/SESSION/a.json')\n"
        "    except OSError:\n        os.kill(os.getpid(), signal.SIGINT)\n        session.progress(1, 1)\n"
    )
    errors = {}
    for name, text in (("failing", failing), ("stopped", stopped)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        errors[name] = json.loads(cli("script", f"SESSION/{name}.py", "--session", name, "--json").stdout)["error"]
    assert errors["failing"]["message"] == cause
    command = "interrupted by Ctrl-C; finished steps of the session stay, `pyrust-nn resume stopped` restarts this one"
    assert errors["stopped"]["message"] == command
    assert cause in errors["stopped"]["causes"]


def test_the_lines_of_a_cause_stay_below_it(cli: Cli, tmp_path: Path) -> None:
    text = "def run(params, session):\n    raise ValueError('of mine') from OSError('one\\ntwo\\nthree')\n"
    (tmp_path / "a.py").write_text(text, encoding="utf-8")
    done = cli("script", "a.py", "--session", "s")
    assert "\n  caused by: OSError: one\n    two\n    three\n" in done.stderr, done.stderr


@pytest.mark.parametrize("how", ["exits", "has no packages", "is another Python"])
def test_an_environment_in_which_python_cannot_start(how: str, tmp_path: Path, runs: Path, data_json: str, cli: Cli) -> None:
    """The step is refused with the kind `setup` and says what to do. The next step with a good environment succeeds."""
    folder = tmp_path / "env"
    packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to(sys.executable)
    version = "3.6.1" if how == "is another Python" else ".".join(map(str, sys.version_info[:3]))
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\nversion = {version}\n")
    if how != "has no packages":
        for entry in Path(pytest.__file__).parents[1].iterdir():
            if entry.name != "sitecustomize.py":
                (packages / entry.name).symlink_to(entry)
        (packages / "sitecustomize.py").write_text("raise SystemExit('broken on purpose')\n")
    words = [
        "finetune-lora",
        "--model",
        "builtin:tiny",
        "--dataset-path",
        data_json,
        "--num-epochs",
        "1",
        "--session",
        "s",
        "--runs-dir",
        runs,
    ]
    done = cli(*words, "--python-env", folder, "--no-setup")
    assert done.returncode == 1, done.stderr
    assert "panicked" not in done.stderr and str(folder) in done.stderr
    assert ("pyrust-nn doctor" if how == "exits" else "pyrust-nn setup") in done.stderr
    assert not (runs / "s").exists(), "found before the step begins"
    again = cli(*words)
    assert again.returncode == 0, again.stderr


def test_a_traceback_begins_in_the_script_that_failed(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def inner():\n    raise ValueError('odd')\n\ndef run(params, session):\n    inner()\n")
    assert cli("script", tmp_path / "mine.py", "--session", "s", "--runs-dir", runs).returncode == 1
    lines = json.loads((runs / "s/script/summary.json").read_text())["error"]["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "ValueError: odd"
    places = [line for line in lines if line.startswith("  File ")]
    assert [re.search(r'script\.py", line (\d+), in (\w+)', place) is not None for place in places] == [True, True], lines
