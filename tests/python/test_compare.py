"""`compare`: what differs between sessions, and nothing that is equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import EVIL, Cli, checked, curve, summary, write_metrics, write_session

import pyrust_nn

PARAMS = {"model": "builtin:tiny", "dataset_path": "data.json", "learning_rate": 2e-4, "lora_rank": 8, "packing": "auto", "runs_dir": "/a"}


def two(runs: Path) -> tuple[Path, Path]:
    """Two sessions: another rate, another name of the step, another data set, another torch; one has a step more."""
    first = summary(
        "finetune_lora", "tune", params=PARAMS, metrics={"tokens": 30, "rows": 3, "last_loss": 1.0, "steps": 9, "size_bytes": 1_492_000_001}
    )
    second = summary(
        "finetune_lora",
        "other",
        params=PARAMS | {"learning_rate": 1e-3, "neftune_alpha": 5.0, "runs_dir": "/b", "step": "other"},
        metrics={"tokens": 40, "rows": 3, "last_loss": 0.5, "steps": 9, "size_bytes": 1_492_000_002},
    )
    proof = [{"file": "/x/b-other.q8_0.gguf", "passed": True, "layers": {"logits": {"mean_kl": 0.25}}}]
    convert = summary("convert_model_to_gguf", "convert", params={"model": "@other", "outtype": ["q8_0"]}, proof=proof)
    a = write_session(runs, [first], "a", python="3.11.7", packages={"torch": "2.14.0", "peft": "0.21"})
    b = write_session(runs, [second, convert], "b", python="3.11.7", packages={"torch": "2.15.0", "peft": "0.21"})
    for folder, step, rate, sha256 in ((a, "tune", 1, "a" * 64), (b, "other", 2, "b" * 64)):
        write_metrics(folder / step, ({"step": i, "loss": rate / i, "learning_rate": 1e-4} for i in range(1, 60)))
        begun = {"params": {}, "inputs": {"dataset_path": {"/x/data.json": {"sha256": sha256}}}}
        (folder / step / "begun.json").write_text(json.dumps(begun))
    return a, b


def test_only_what_differs_is_named_and_by_the_parameters_own_names(cli: Cli, runs: Path) -> None:
    two(runs)
    compared = json.loads(cli("compare", "a", "b", "--runs-dir", runs, "--json").stdout)
    assert compared["sessions"] == ["a", "b"] and compared["versions"] == {"torch": ["2.14.0", "2.15.0"]}
    tune, convert = compared["steps"]
    assert tune == {
        "step": "tune / other",
        "parameters": {"learning_rate": [2e-4, 1e-3], "neftune_alpha": [None, 5.0]},
        "data": {"dataset_path (SHA-256)": ["a" * 16, "b" * 16], "tokens": [30, 40]},
        "metrics": {"last_loss": [1.0, 0.5], "size_bytes": [1_492_000_001, 1_492_000_002]},
    }
    assert convert["step"] == "convert" and convert["parameters"] == {"model": [None, "@other"], "outtype": [None, ["q8_0"]]}
    assert convert["proof"]["q8_0 mean_kl"] == [None, 0.25]


def test_equal_sessions_differ_in_nothing(cli: Cli, runs: Path) -> None:
    two(runs)
    done = cli("compare", "a", "a", "--runs-dir", runs)
    assert (done.returncode, done.stdout) == (0, "nothing differs\n")


def test_the_terminal_shows_a_column_for_each_session_and_the_losses_as_lines(cli: Cli, runs: Path) -> None:
    two(runs)
    lines = [line.split() for line in cli("compare", "b", "a", "--runs-dir", runs).stdout.splitlines()]
    assert ["learning_rate", "0.001", "0.0002"] in [
        [*line[:1], *map(str, map(float, line[1:]))] for line in lines if line[:1] == ["learning_rate"]
    ]
    assert ["torch", "2.15.0", "2.14.0"] in lines
    assert ["size_bytes", "1492000002", "1492000001"] in lines, "rounded, both are 1.5 GB"
    (first, second) = [line for line in lines if len(line) == 5 and line[3] == "→"]
    assert (
        [first[0], second[0]] == ["b", "a"] and first[1][0] == "█" and set(second[1]) <= set("▁▂▃▄▅") and first[2:] == ["2", "→", "0.0339"]
    )


def test_the_page_has_the_curves_over_one_another_and_no_markup_of_a_session(cli: Cli, runs: Path, tmp_path: Path) -> None:
    two(runs)
    write_session(runs, [summary("finetune_lora", "tune", params=PARAMS | {EVIL: EVIL}, metrics={EVIL: 1})], "c", version=EVIL)
    target = tmp_path / "compared.html"
    assert cli("compare", "a", "b", "c", "--runs-dir", runs, "--html", target).returncode == 0
    read = checked(target.read_text())
    label = curve(read, "loss of tune / other")
    assert "a from 1 at step 1" in label and "b from 2 at step 1" in label
    assert "learning_rate" in read.text and "lora_rank" not in read.text and "packing" not in read.text
    assert [one["class"] for one in read.all("path") if (one.get("class") or "").startswith("line")][:2] == ["line s0", "line s1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["a"], "2 values required"), (["a", "x"], "there is no session x"), (["a", "b", "--html", "."], "is a folder")],
)
def test_what_cannot_be_compared_is_a_usage_error(words: list[str], message: str, cli: Cli, runs: Path) -> None:
    two(runs)
    done = cli("compare", *words, "--runs-dir", runs)
    assert done.returncode == 2 and message in done.stderr


def test_two_real_trainings(cli: Cli, runs: Path, data_json: str) -> None:
    made: list[Any] = []
    for name, rank in (("one", 4), ("two", 8)):
        same: dict[str, Any] = {"dataset_path": data_json, "num_epochs": 0.5, "logging_steps": 1, "runs_dir": runs}
        made.append(pyrust_nn.finetune_lora(name, "builtin:tiny", lora_rank=rank, **same))
    (step,) = json.loads(cli("compare", "one", "two", "--runs-dir", runs, "--json").stdout)["steps"]
    assert step["parameters"] == {"lora_rank": [4, 8]} and "data" not in step
    assert step["metrics"]["trainable_parameters"] == [one["metrics"]["trainable_parameters"] for one in made]
