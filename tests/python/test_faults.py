"""Each change of the file system may fail: a sample of what `make test-faults` runs whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SWEEP = Path(__file__).parents[1] / "faults/sweep.py"


def sweep(folder: Path, *words: str) -> dict[str, Any]:
    """The figures of a sweep in which no case failed."""
    figures = folder / "figures.json"
    done = subprocess.run([sys.executable, SWEEP, *words, "--results", figures], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    assert found["failed"] == []
    return found


def test_a_fault_anywhere_costs_nothing_that_was_done(tmp_path: Path) -> None:
    found = sweep(tmp_path, "--every", "250")
    assert found["cases"] >= 6
    # The writes of libraries are points as well as ours.
    written = {Path(line.split(" ", 2)[2]).name for line in found["taken_from"] if line.split(" ")[1] == "write"}
    assert {"optimizer.pt", "pipeline.log", "metrics.jsonl"} <= written


def test_old_checkpoints_that_a_killed_training_did_not_remove_are_removed_by_the_next(tmp_path: Path) -> None:
    assert sweep(tmp_path, "--only", r"remove .*/finetune_full/checkpoints/\.partial$", "--mode", "kill")["cases"] > 0


def test_an_old_checkpoint_that_cannot_be_removed_fails_no_training(tmp_path: Path) -> None:
    assert sweep(tmp_path, "--only", r"remove .*/checkpoint-2/manifest.json$", "--mode", "fail")["cases"] > 0


def test_a_full_disk_leaves_room_for_the_summary(tmp_path: Path) -> None:
    assert sweep(tmp_path, "--only", r"mkdir .*/finetune_full/checkpoints/\.partial$", "--mode", "full")["cases"] > 0
