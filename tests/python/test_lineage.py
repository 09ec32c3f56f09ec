"""The lineage of an adapter, and what it forgets over its stages."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures import plain_loss, write

import pyrust_nn
from pyrust_nn.models.model_folder import model_folder

GIVEN: dict[str, Any] = {"num_epochs": 6, "batch_size": 2, "learning_rate": 1e-2, "lora_dropout": 0.1, "logging_steps": 1}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tiny model as a folder of the user's."""
    return Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "base"))


@pytest.fixture
def stages(tmp_path: Path) -> list[Path]:
    """Three data sets that have little in common."""
    answers = ("first", "It is one."), ("second", "They are two, or so."), ("third", "Three of a kind!")
    return [write(tmp_path / f"{name}.json", [(f"The {name}, {i}?", answer) for i in range(4)]) for name, answer in answers]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_stage_records_its_parents_and_measures_what_it_forgets(runs: Path, base: Path, stages: list[Path]) -> None:
    adapters: list[Path] = []
    for number, dataset in enumerate(stages, 1):
        more = {"checkpoint_lora": adapters[-1]} if adapters else {}
        summary = pyrust_nn.finetune_lora("s", base, dataset_path=dataset, step=f"stage{number}", **GIVEN, **more, runs_dir=runs)
        adapters.append(runs / "s" / summary["outputs"]["adapter"])
    first, second, third = adapters

    record = json.loads((third / "lineage.json").read_text())
    assert record["base"] == {"model": str(base), "sha256": sha256(base / "model.safetensors")}
    assert record["parent"] == {"adapter": str(second), "sha256": sha256(second / "adapter_model.safetensors")}
    assert record["adapter"]["sha256"] == sha256(third / "adapter_model.safetensors")
    assert [one["dataset_path"] for one in record["stages"]] == [[str(path)] for path in stages]
    assert len({one["digest"] for one in record["stages"]}) == len(stages)
    assert json.loads((first / "lineage.json").read_text())["parent"] is None

    table = json.loads((runs / "s/stage3/summary.json").read_text())["result"]["forgetting"]
    assert [(row["stage"], row["dataset_path"]) for row in table] == [(1, str(stages[0])), (2, str(stages[1]))]
    for row, dataset in zip(table, stages, strict=False):
        assert row["loss_before"] == pytest.approx(plain_loss(base, second, dataset), rel=1e-4)
        assert row["loss_after"] == pytest.approx(plain_loss(base, third, dataset), rel=1e-4)
        assert row["forgotten"] == pytest.approx(row["loss_after"] - row["loss_before"], abs=1e-9)
    assert table[1]["forgotten"] > 0.1, "what was learned last is forgotten while something else is learned"
    assert json.loads((runs / "s/stage1/summary.json").read_text())["result"] is None


@pytest.mark.parametrize(("rows", "used"), [(2, [0, 2]), (3, [0, 1, 2]), (1000, [0, 1, 2, 3]), (0, [])])
def test_forgetting_is_measured_on_so_many_rows(rows: int, used: list[int], tmp_path: Path, runs: Path, base: Path) -> None:
    """They are spread over the data set. Questions and answers have different lengths, so that packing has something to do."""
    pairs = [(f"What is {n}? " * (1 + n), "Well, " * (3 - n) + f"{n}.") for n in range(4)]
    whole, some = write(tmp_path / "whole.json", pairs), write(tmp_path / "some.json", [pairs[n] for n in used])
    made = pyrust_nn.finetune_lora("s", base, dataset_path=whole, step="first", **GIVEN, runs_dir=runs)
    adapter = runs / "s" / made["outputs"]["adapter"]
    more = {"checkpoint_lora": adapter, "forgetting_rows": rows, "max_tokens_per_batch": 100}
    made = pyrust_nn.finetune_lora("s", base, dataset_path=whole, step="next", **GIVEN, **more, runs_dir=runs)
    table = made["result"]["forgetting"]
    assert [row["rows"] for row in table] == ([len(used)] if used else [])
    for row in table:
        assert row["loss_before"] == pytest.approx(plain_loss(base, adapter, some), rel=1e-4)
        assert row["loss_after"] == pytest.approx(plain_loss(base, runs / "s" / made["outputs"]["adapter"], some), rel=1e-4)


def test_measuring_changes_nothing_in_what_is_learned(runs: Path, base: Path, stages: list[Path]) -> None:
    made = pyrust_nn.finetune_lora("s", base, dataset_path=stages[0], step="first", **GIVEN, runs_dir=runs)
    adapter = runs / "s" / made["outputs"]["adapter"]
    stranger = Path(shutil.copytree(adapter, runs / "stranger"))
    (stranger / "lineage.json").unlink()  # as if made elsewhere: nothing is measured
    ends = []
    for number, parent in enumerate((adapter, stranger)):
        pyrust_nn.finetune_lora("s", base, dataset_path=stages[1], checkpoint_lora=parent, step=f"n{number}", **GIVEN, runs_dir=runs)
        ends.append((runs / f"s/n{number}/adapter/adapter_model.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_a_base_or_an_adapter_that_changed_in_its_place_is_refused(runs: Path, base: Path, stages: list[Path]) -> None:
    made = pyrust_nn.finetune_lora("s", base, dataset_path=stages[0], step="first", **GIVEN, runs_dir=runs)
    adapter = runs / "s" / made["outputs"]["adapter"]
    for file, words in (
        (base / "model.safetensors", "its base .* has other weights"),
        (adapter / "adapter_model.safetensors", "the adapter .*"),
    ):
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(pyrust_nn.InputError, match=f"checkpoint_lora: {words}"):
            pyrust_nn.finetune_lora("s", base, dataset_path=stages[1], checkpoint_lora=adapter, step="next", **GIVEN, runs_dir=runs)
        file.write_bytes(before)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text(path.read_text() + " ")], ids=["gone", "changed"])
def test_a_data_set_that_is_not_what_it_was_is_said_and_left_out(
    runs: Path, base: Path, stages: list[Path], change: Callable[[Path], object]
) -> None:
    made = pyrust_nn.finetune_lora("s", base, dataset_path=stages[0], step="first", **GIVEN, runs_dir=runs)
    change(stages[0])
    adapter = runs / "s" / made["outputs"]["adapter"]
    made = pyrust_nn.finetune_lora("s", base, dataset_path=stages[1], checkpoint_lora=adapter, step="next", **GIVEN, runs_dir=runs)
    assert made["result"] == {"forgetting": []}
    assert "stage 1 is not measured: " in (runs / "s/pipeline.log").read_text()
