"""`compile`: training with compiled layers gives the same results, saved names and resumes; unsupported models are refused."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disturbed
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import Qwen3_5TextConfig

import pyrust_nn
from pyrust_nn import InputError
from pyrust_nn.training.compiling import check_compilable

TINY = "builtin:tiny"
GIVEN: dict[str, Any] = {"num_epochs": 2, "batch_size": 4, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-3, "eval_split": 0.1}


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve conversations of different lengths."""
    path = tmp_path_factory.mktemp("compile") / "few.json"
    pairs = [(f"Question {i}?", f"Answer {i} " * (1 + 3 * i % 7)) for i in range(12)]
    path.write_text(json.dumps([{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]))
    return path


def losses(step: Path) -> list[float]:
    """Every loss that metrics.jsonl has, of steps and evaluations."""
    records = [json.loads(line) for line in (step / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records for name in ("loss", "eval_loss") if name in record]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


@pytest.mark.parametrize(
    ("task", "output", "more"),
    [
        ("finetune_lora", "adapter", {"lora_rank": 4, "lora_dropout": 0.0}),
        ("finetune_full", "model", {"gradient_checkpointing": True}),
        ("finetune_full", "model", {"packing": "off"}),
    ],
)
def test_compiled_layers_learn_the_same_and_are_saved_under_the_same_names(
    runs: Path, few: Path, task: str, output: str, more: dict[str, Any]
) -> None:
    steps = {}
    for step, compiled in (("plain", False), ("compiled", True)):
        counters.clear()
        getattr(pyrust_nn, task)("s", TINY, dataset_path=few, compile=compiled, step=step, runs_dir=runs, **GIVEN, **more)
        assert bool(counters["stats"]["unique_graphs"]) is compiled
        steps[step] = runs / "s" / step
    assert losses(steps["compiled"]) == pytest.approx(losses(steps["plain"]), rel=1e-4)
    for folder in (output, "checkpoints/checkpoint-2"):
        first, second = weights(steps["plain"] / folder), weights(steps["compiled"] / folder)
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            # Adam divides by the gradient's size, so rounding shows where a gradient is almost nothing.
            assert (second[name] - tensor).abs().mean() < 1e-5, name


def test_a_killed_compiled_training_resumes(runs: Path, few: Path, binary: Path) -> None:
    pyrust_nn.finetune_lora("plain", TINY, dataset_path=few, lora_dropout=0.0, runs_dir=runs, **GIVEN | {"num_epochs": 6})
    given = GIVEN | {"num_epochs": 6, "lora_dropout": 0.0, "model": TINY, "dataset_path": few, "session": "s", "runs_dir": runs}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    process = disturbed.start([binary, "finetune-lora", *words, "--compile"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    step = runs / "s/finetune_lora"
    until = time.monotonic() + 300
    while not (step / "checkpoints/checkpoint-4").exists():
        assert process.poll() is None and time.monotonic() < until, "the fourth step never came"
        time.sleep(0.002)
    process.kill()
    process.wait()
    (summary,) = pyrust_nn.resume("s", runs_dir=runs)
    assert summary["params"]["compile"] is True and summary["metrics"]["steps"] == 18
    assert losses(step) == pytest.approx(losses(runs / "plain/finetune_lora"), rel=1e-4)


def test_without_a_compiler_it_is_refused_with_the_fix(runs: Path, few: Path, cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    words = ("finetune-lora", "--session", "s", "--model", TINY, "--dataset-path", few, "--runs-dir", runs, "--compile")
    done = cli(*words, env=os.environ | {"CXX": "/nowhere/g++"})
    assert done.returncode == 1
    assert "apt install g++ python3-dev" in done.stderr and "/nowhere/g++" in done.stderr, done.stderr
    assert not (runs / "s").exists()


def test_recurrent_layers_are_not_compiled() -> None:
    check_compilable(Qwen3_5TextConfig(layer_types=["full_attention"], num_hidden_layers=1))
    with pytest.raises(InputError, match=r"recurrent.*turn compile off"):
        check_compilable(Qwen3_5TextConfig(layer_types=["linear_attention", "full_attention"], num_hidden_layers=2))
