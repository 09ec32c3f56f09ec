"""A session that is removed or replaced while it runs, and a clock that is set back."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import disturbed
import pytest
from disturbed import wait_for

import pyrust_nn

Cli = Callable[..., subprocess.CompletedProcess[str]]

WAITING = """import pathlib, time
def run(params, session):
    pathlib.Path("here").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    session.metric({"a": 1})
"""


@pytest.mark.parametrize("after", ["removed", "replaced"])
def test_a_session_that_is_gone_is_an_error_and_nothing_else_is_touched(after: str, binary: Path, tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING, encoding="utf-8")
    words = [binary, "script", "waiting.py", "--session", "s", "--json"]
    process = disturbed.start([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "here")
    shutil.rmtree(tmp_path / "runs/s")
    if after == "replaced":
        (tmp_path / "runs/s/script").mkdir(parents=True)
        (tmp_path / "runs/s/session.json").write_text("theirs", encoding="utf-8")
        (tmp_path / "runs/s/script/summary.json").write_text("theirs", encoding="utf-8")
    (tmp_path / "go").touch()
    output, _ = process.communicate(timeout=600)
    error = json.loads(output)["error"]
    assert (process.returncode, error["kind"]) == (1, "io") and after in error["message"]
    left = {str(path.relative_to(tmp_path / "runs")): path.read_text() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert left == ({"s/session.json": "theirs", "s/script/summary.json": "theirs"} if after == "replaced" else {})


def test_a_clock_that_is_set_back_repeats_no_step(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text("def run(params, session):\n    pass\n", encoding="utf-8")
    (tmp_path / "second.py").write_text(
        "import pathlib\ndef run(params, session):\n    assert pathlib.Path('repaired').exists()\n", encoding="utf-8"
    )
    steps = [f"[[step]]\ntask = 'script'\nname = '{name}'\nscript = '{name}.py'\n" for name in ("first", "second")]
    (tmp_path / "pipeline.toml").write_text("session = 's'\n" + "".join(steps), encoding="utf-8")
    assert cli("run").returncode == 1
    # As if the clock had been an hour ahead when the pipeline was started.
    record = json.loads((tmp_path / "runs/s/session.json").read_text(encoding="utf-8"))
    record["plan"]["started_at"] = "2999-01-01T00:00:00.000Z"
    (tmp_path / "runs/s/session.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "repaired").touch()
    assert [one["step"] for one in pyrust_nn.resume("s")] == ["second"]
