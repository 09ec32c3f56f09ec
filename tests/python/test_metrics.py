"""`metrics`: the numbers of a training as a table for other libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas
import pyarrow
import pytest
from test_report import summary, write_metrics, write_session

import pyrust_nn


def session(runs: Path) -> None:
    folder = write_session(runs, [summary("finetune_full", "full"), summary("merge", "merge"), summary("finetune_lora", "lora")])
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval_loss": 2.5}, {"step": 3, "loss": 1.0}]
    write_metrics(folder / "full", iter(lines))
    write_metrics(folder / "lora", iter([{"step": 5, "loss": 0.5, "epoch": 0.1, "own": 7}]))


def test_pandas_and_pyarrow_read_a_row_for_each_logged_step(runs: Path) -> None:
    session(runs)
    made = pyrust_nn.metrics("s", runs_dir=runs)
    assert made.columns == ["name", "step", "loss", "eval_loss", "epoch", "own"] and len(made) == 4
    table = pyarrow.table(made)
    assert table.column("loss").to_pylist() == [3.0, 2.0, 1.0, 0.5] and table.column("eval_loss").to_pylist() == [None, 2.5, None, None]
    assert table.schema.field("step").type == pyarrow.int64() and table.equals(pyarrow.table(made)), "it can be read again"
    frame = pandas.DataFrame.from_arrow(made)
    assert frame[frame.name == "full"].loss.tolist() == [3.0, 2.0, 1.0] and frame.step.tolist() == [1, 2, 3, 5]
    rows = pyrust_nn.metrics("s", "lora", runs_dir=runs).to_dicts()
    assert rows == [{"name": "lora", "step": 5, "loss": 0.5, "epoch": 0.1, "own": 7.0}]


def test_what_a_training_wrote_is_in_it(runs: Path, data_json: str) -> None:
    pyrust_nn.finetune_lora("s", "builtin:tiny", dataset_path=data_json, num_epochs=1, logging_steps=1, runs_dir=runs)
    written = [json.loads(line) for line in (runs / "s/finetune_lora/metrics.jsonl").read_text().splitlines()]
    assert [{"name": "finetune_lora"} | line for line in written] == pyrust_nn.metrics("s", runs_dir=runs).to_dicts()


def test_no_other_package_is_imported(runs: Path) -> None:
    session(runs)
    read = f"pyrust_nn.metrics('s', runs_dir={str(runs)!r}).to_dicts()"
    code = f"import sys, pyrust_nn; {read}; print([name for name in ('pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("step", "message"), [("merge", "has no metrics"), ("other", "has no step other; it has full, merge, lora")])
def test_a_step_without_metrics_is_a_usage_error(step: str, message: str, runs: Path) -> None:
    session(runs)
    with pytest.raises(pyrust_nn.UsageError, match=message):
        pyrust_nn.metrics("s", step, runs_dir=runs)
