"""Evaluation during training: its loss, the checkpoints kept, early stopping."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import plain_loss, write
from safetensors.torch import load_file

import pyrust_nn
from pyrust_nn.models.model_folder import model_folder

TINY = "builtin:tiny"
GIVEN: dict[str, Any] = {"num_epochs": 8, "batch_size": 2, "learning_rate": 2e-2, "lora_dropout": 0, "scheduler": "constant"}


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    """Six conversations, learned by heart within a few epochs."""
    return write(tmp_path / "taught.json", [(f"Question {i}?", f"Answer number {i}.") for i in range(6)])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """What they do not say: its loss falls at first, then rises."""
    return write(tmp_path / "other.json", [("And who?", "Answer me: somebody else."), ("Why?", "Because.")])


def evaluations(step: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (step / "metrics.jsonl").read_text().splitlines()]
    return {one["step"]: one["eval_loss"] for one in records if "eval_loss" in one}


def checkpoints(step: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in (step / "checkpoints").glob("checkpoint-*"))


def test_a_file_is_evaluated_on_every_so_many_steps_and_not_trained_on(runs: Path, taught: Path, other: Path) -> None:
    summary = pyrust_nn.finetune_lora("s", TINY, dataset_path=taught, eval_dataset_path=other, eval_steps=5, **GIVEN, runs_dir=runs)
    figures, losses = summary["metrics"], evaluations(runs / "s/finetune_lora")
    assert figures["steps"] == 24 and list(losses) == [5, 10, 15, 20, 24]
    assert figures["eval_rows"] == 2 and figures["rows"] == 6
    assert figures["eval_loss"] == losses[24] and figures["best_eval_loss"] == min(losses.values())
    assert losses[24] == pytest.approx(plain_loss(model_folder(TINY), runs / "s/finetune_lora/adapter", other), rel=1e-4)
    alone = pyrust_nn.finetune_lora("t", TINY, dataset_path=taught, **GIVEN, runs_dir=runs)
    ours, theirs = (load_file(runs / name / "finetune_lora/adapter/adapter_model.safetensors") for name in "st")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and alone["metrics"]["train_loss"] == figures["train_loss"]


def test_the_best_is_kept_linked_and_saved_in_the_end(runs: Path, taught: Path, other: Path) -> None:
    # At twice the rate, or later, rounding decides where the lowest loss is, and so the processor and the kernels.
    given = GIVEN | {"dataset_path": taught, "eval_dataset_path": other, "save_steps": 4, "save_total_limit": 2}
    given |= {"learning_rate": 1e-2, "num_epochs": 4}
    summary = pyrust_nn.finetune_lora("s", TINY, **given, load_best_model_at_end=True, runs_dir=runs)
    step, figures = runs / "s/finetune_lora", summary["metrics"]
    losses = evaluations(step)
    best = min(losses, key=lambda number: losses[number])
    assert list(losses) == list(range(3, 13, 3)) and 3 < best < 12, losses
    assert (figures["best_step"], figures["best_eval_loss"], figures["eval_loss"]) == (best, losses[best], losses[best])
    assert checkpoints(step) == [best, 12]
    assert (step / "checkpoints/best").resolve() == (step / f"checkpoints/checkpoint-{best}").resolve()
    saved, link = (folder / "adapter_model.safetensors" for folder in (step / "adapter", step / "checkpoints/best"))
    assert saved.read_bytes() == link.read_bytes()
    assert plain_loss(model_folder(TINY), step / "adapter", other) == pytest.approx(losses[best], rel=1e-4)


def test_without_a_limit_all_regular_checkpoints_and_the_best_stay(runs: Path, taught: Path, other: Path) -> None:
    given = GIVEN | {"dataset_path": taught, "eval_dataset_path": other, "num_epochs": 4}
    summary = pyrust_nn.finetune_lora("s", TINY, **given, save_steps=5, runs_dir=runs)
    losses = evaluations(runs / "s/finetune_lora")
    assert checkpoints(runs / "s/finetune_lora") == sorted({5, 10, 12, min(losses, key=lambda number: losses[number])})
    assert summary["metrics"]["eval_loss"] == losses[12]


def test_a_training_without_gain_ends_early_and_resumed_makes_no_further_step(runs: Path, taught: Path, other: Path) -> None:
    given = GIVEN | {"dataset_path": taught, "eval_dataset_path": other, "num_epochs": 30, "save_steps": 100, "logging_steps": 2}
    summary = pyrust_nn.finetune_lora("whole", TINY, **given, early_stopping_patience=3, runs_dir=runs)
    whole = runs / "whole/finetune_lora"
    losses = evaluations(whole)
    best = min(losses, key=lambda number: losses[number])
    assert summary["metrics"]["steps"] == max(losses) == best + 3 * 3 < 90
    assert checkpoints(whole) == [best, best + 9]
    steps = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert steps[-1] == best + 9

    shutil.copytree(runs / "whole", runs / "s")
    step = runs / "s/finetune_lora"
    shutil.rmtree(step / "adapter")
    (step / "summary.json").unlink()
    record = runs / "s/session.json"
    record.write_text(record.read_text().replace('"status": "Success"', '"status": null'))
    pyrust_nn.resume("s", runs_dir=runs)
    for file in ("adapter/adapter_model.safetensors", "metrics.jsonl"):
        assert (step / file).read_bytes() == (whole / file).read_bytes()


def test_a_divergence_names_the_last_good_checkpoint(runs: Path, taught: Path) -> None:
    with pytest.raises(pyrust_nn.ModelError, match=r"diverged.*the last good checkpoint is ") as raised:
        pyrust_nn.finetune_full(
            "s",
            TINY,
            dataset_path=taught,
            num_epochs=60,
            learning_rate=10.0,
            max_grad_norm=0,
            weight_decay=10.0,
            save_steps=1,
            runs_dir=runs,
        )
    named = re.search(r"the last good checkpoint is (\S+)$", str(raised.value))
    assert named
    tensors = load_file(Path(named[1]) / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eval_steps": 3}, "eval_steps needs data to evaluate on"),
        ({"early_stopping_patience": 3}, "early_stopping_patience needs"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end needs"),
        ({"eval_split": 0.5, "eval_dataset_path": "taught.json"}, "cannot both be set"),
        ({"eval_dataset_path": "nowhere.json"}, "there is no data set nowhere.json"),
    ],
)
def test_evaluation_without_data_is_refused(runs: Path, taught: Path, given: dict[str, Any], words: str) -> None:
    error = pyrust_nn.InputError if "nowhere" in words else pyrust_nn.UsageError
    with pytest.raises(error, match=words):
        pyrust_nn.finetune_lora("s", TINY, dataset_path=taught, **given, runs_dir=runs)
