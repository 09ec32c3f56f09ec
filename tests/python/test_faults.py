"""Each change of the file system may fail: a sample of what `make test-faults` runs whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = Path(__file__).parents[1] / "faults/sweep.py"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for tests/faults/shim.c")
def test_a_fault_anywhere_costs_nothing_that_was_done(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run([sys.executable, SWEEP, "--every", "150", "--results", figures], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["cases"] > 10
    assert found["failed"] == []
    # The writes of libraries are points as well as ours.
    written = {Path(line.split(" ", 2)[2]).name for line in found["taken_from"] if line.split(" ")[1] == "write"}
    assert {"optimizer.pt", "pipeline.log", "metrics.jsonl"} <= written
