"""Our own side of the comparisons of training, through the public functions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from training_inputs import BATCH, MAX_LENGTH, RATES, SEED


def run(task: str, folder: Path, device: str = "cpu", dtype: str = "auto") -> dict[str, Any]:
    """One training of the model in `folder`: rate, losses of the steps, parameters as resolved, and on CUDA its memory."""
    import pyrust_nn

    session = f"{task}-{os.getpid()}"
    given: dict[str, Any] = {
        "dataset_path": folder / "data.json",
        "num_epochs": 1,
        "batch_size": BATCH,
        "max_length": MAX_LENGTH,
        "learning_rate": RATES[task],
        "scheduler": "constant",
        "seed": SEED,
        "logging_steps": 1,
        "dtype": dtype,
        "device": device,
        "runs_dir": folder / "runs",
        "offline": True,
    }
    if task == "lora":
        given["checkpoint_lora"] = folder / "adapter"
    summary = getattr(pyrust_nn, f"finetune_{task}")(session, str(folder / "model"), **given)
    lines = (folder / "runs" / session / f"finetune_{task}" / "metrics.jsonl").read_text().splitlines()
    figures = {
        "target_tokens_per_second": summary["metrics"]["target_tokens_per_second"],
        "losses": [json.loads(line)["loss"] for line in lines],
        "params": summary["params"],
    }
    return figures if device == "cpu" else figures | {"peak_memory_bytes": summary["metrics"]["peak_memory_bytes"]}


def least_memory(task: str, folder: Path) -> None:
    """Hold what every side holds: torch, transformers and peft, the weights, in full also gradients and AdamW's moments."""
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM

    weights = list(AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).parameters())
    for weight in weights:
        weight.sum()  # reads the mapped file
    held = [torch.ones_like(weight) for weight in weights for _ in range(3)] if task == "full" else []
    del held
