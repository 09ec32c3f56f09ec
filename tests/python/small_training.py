"""Trainings below the public functions: a small model of random weights, rows in memory, and the loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback

from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn.training.loop import train
from pyrust_nn.training.rows import Row
from pyrust_nn.training.setup import TrainingData

CPU = torch.device("cpu")


def small_model(**more: Any) -> Qwen2ForCausalLM:
    """Two layers of Qwen2 with random weights and the tiny model's vocabulary."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=1280, **sizes | more))


class RowList(list[Row]):
    """Rows in memory, with what `PreparedRows` has besides."""

    def lengths(self) -> np.ndarray:
        return np.array([len(row.input_ids) for row in self], np.int32)


def run_training(
    model: Any,
    tokenizer: Any,
    samples: list[Row],
    folder: Path,
    held_out: Sequence[Row] = (),
    loraplus_ratio: float | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    checkpoint: Path | None = None,
    ranks: Ranks | None = None,
    **given: Any,
) -> dict[str, float]:
    """`train` with the parameters' defaults, but fast and for one epoch."""
    params = SimpleNamespace(**{
        "model": "builtin:tiny", "num_epochs": 1, "batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3,
        "scheduler": "constant",
        "warmup": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 7, "save_steps": 0, "logging_steps": 1,
        "packing": "auto", "max_tokens_per_batch": None, "optimizer": "adamw", "neftune_alpha": None,
        "gradient_checkpointing": False, "report_to": None, "save_total_limit": 0, "eval_steps": 0,
        "early_stopping_patience": 0, "load_best_model_at_end": False, "compile": False,
    } | given)  # fmt: skip
    calls: dict[str, Any] = {"progress": lambda *a: None, "metric": lambda r: None, "publish_checkpoint": lambda made, to: made.rename(to)}
    session: Any = SimpleNamespace(step_folder=folder, offline=True, ranks=ranks or Ranks(), **calls)
    nothing: Any = {}
    data = TrainingData(RowList(samples), RowList(held_out), "", nothing, {})  # type: ignore[arg-type]
    more: Any = {"loraplus_ratio": loraplus_ratio, "callbacks": callbacks, "checkpoint": checkpoint}
    return train(model, tokenizer, data, params, session, device=device, dtype=dtype, **more)
