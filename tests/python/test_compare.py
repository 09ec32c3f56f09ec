"""`compare`: what differs between sessions, and nothing that is equal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal
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
    assert convert == {"step": "convert", "missing_in": ["a"]}, "all its values, defaults too, would differ"


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
    assert ["size_bytes", "1.492000002", "GB", "1.492000001", "GB"] in lines, "rounded, both are 1.5 GB"
    assert ["missing", "in", "a:", "convert"] in lines and not [line for line in lines if line[:1] in (["outtype"], ["q8_0"])]
    (first, second) = [line for line in lines if len(line) == 5 and line[3] == "→"]
    assert (
        [first[0], second[0]] == ["b", "a"] and first[1][0] == "█" and set(second[1]) <= set("▁▂▃▄▅") and first[2:] == ["2", "→", "0.0339"]
    )


def test_what_the_sessions_with_a_step_have_is_compared_without_the_one_that_lacks_it(cli: Cli, runs: Path) -> None:
    two(runs)
    converts = [summary("convert_model_to_gguf", "convert", params={"model": "@other", "outtype": [kind]}) for kind in ("q8_0", "f16")]
    write_session(runs, converts[:1], "c")
    write_session(runs, converts[1:], "d")
    compared = json.loads(cli("compare", "a", "c", "d", "--runs-dir", runs, "--json").stdout)
    steps = {one["step"]: one for one in compared["steps"]}
    assert steps["convert"]["missing_in"] == ["a"] and steps["convert"]["parameters"] == {"outtype": [None, ["q8_0"], ["f16"]]}
    assert steps["tune"] == {"step": "tune", "missing_in": ["c", "d"]}
    text = cli("compare", "a", "c", "d", "--runs-dir", runs).stdout
    assert re.search(r"^  missing in a:  convert$", text, re.MULTILINE) and re.search(r"^  missing in c, d:  tune$", text, re.MULTILINE)


@pytest.mark.parametrize("columns", [80, 140])
def test_long_names_and_values_are_whole_at_any_width(binary: Path, runs: Path, columns: int) -> None:
    """Nothing is cut off, and no word is broken."""
    names = ["20261126-202300-the-first-rate-of-learning", "20261126-202300-the-second-rate-of-learning"]
    path = "/data/of/a/project/with/a/long/name/conversations-of-the-last-year.jsonl"
    for name, rate, data in zip(names, (1e-4, 2e-4), (path, path + ".gz"), strict=True):
        params = PARAMS | {"learning_rate": rate, "dataset_path": data}
        folder = write_session(runs, [summary("finetune_lora", "tune", params=params)], name)
        write_metrics(folder / "tune", ({"step": i, "loss": rate / i} for i in range(1, 60)))
    terminal = Terminal(binary, "compare", *names, "--runs-dir", runs, columns=columns)
    assert terminal.finish() == 0
    for word in (*names, "learning_rate", "2.000e-4 → 3.390e-6"):
        assert word in terminal.text, terminal.text
    assert path + ".gz" in "".join(terminal.text.split()), "longer than a line"
    assert not terminal.broken and "…" not in terminal.text, terminal.text
    assert re.search(rf"^ +{names[0]}( +| *\n +)[▁▂▃▄▅▆▇█]{{8,}}", terminal.text, re.MULTILINE), terminal.text


def test_the_page_has_the_curves_over_one_another_and_no_markup_of_a_session(cli: Cli, runs: Path, tmp_path: Path) -> None:
    two(runs)
    write_session(runs, [summary("finetune_lora", "tune", params=PARAMS | {EVIL: EVIL}, metrics={EVIL: 1})], "c", version=EVIL)
    target = tmp_path / "compared.html"
    assert cli("compare", "a", "b", "c", "--runs-dir", runs, "--html", target).returncode == 0
    read = checked(target.read_text())
    label = curve(read, "loss of tune / other")
    assert "a from 1 at step 1" in label and "b from 2 at step 1" in label
    assert "learning_rate" in read.text and "lora_rank" not in read.text and "packing" not in read.text
    assert "missing in a, c: convert" in " ".join(read.text.split()) and "outtype" not in read.text
    assert [one["class"] for one in read.all("path") if (one.get("class") or "").startswith("line")][:2] == ["line s0", "line s1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "compare needs SESSION: names of the sessions, two or more"),
        (["a", "x"], "there is no session x"),
        (["a", "b", "--html", "."], "is a folder"),
    ],
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
