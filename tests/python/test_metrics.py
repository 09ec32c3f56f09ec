"""`metrics`: the numbers of a training as a table for other libraries."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet
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


def exported(cli: Any, runs: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return cli("export-metrics", "s", "--runs-dir", runs, *words)


def test_metrics_are_exported_as_other_programs_read_them(cli: Any, runs: Path, tmp_path: Path) -> None:
    folder = write_session(runs, [summary("finetune_lora", "tune"), summary("script", "own")])
    rows = [{"step": 1, "loss": 2.5, "learning_rate": 1e-4}, {"step": 2, "eval_loss": 3.0}, {"step": 3, "loss": 0.1}]
    write_metrics(folder / "tune", iter(rows))
    write_metrics(folder / "own", iter([{"step": 7, 'a, "b"': -1.0}]))
    wanted = pyrust_nn.metrics("s", runs_dir=runs).to_dicts()

    done = exported(cli, runs, "--to", "csv", "--out", tmp_path / "m.csv")
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "m.csv"), done.stderr
    with open(tmp_path / "m.csv", newline="") as file:
        read = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    numbers = [{name: cell if name == "name" else float(cell) for name, cell in row.items()} for row in read]
    assert numbers == wanted

    assert exported(cli, runs, "--to", "parquet", "--out", tmp_path / "m.parquet").returncode == 0
    table = parquet.read_table(tmp_path / "m.parquet")
    assert [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()] == wanted

    assert exported(cli, runs, "--to", "tensorboard", "--out", tmp_path / "events").returncode == 0
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "events/tune"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "eval_loss"}
    found = [(one.step, one.value) for one in events.Scalars("loss")]
    assert found == [(1, 2.5), (3, pytest.approx(0.1))]
    times = [one.wall_time for one in events.Scalars("loss")]
    assert 1767225600 <= times[0] < times[1] <= 1767225660, "the step began at 2026-01-01 and took a minute"

    assert exported(cli, runs, "--to", "csv", "--out", tmp_path / "own.csv", "--step", "own").returncode == 0
    assert (tmp_path / "own.csv").read_text() == 'name,step,"a, ""b"""\nown,7,-1\n'
    refused = exported(cli, runs, "--to", "csv", "--out", tmp_path / "m.csv")
    assert refused.returncode == 2 and "exists" in refused.stderr
