"""What a training says before it begins: the model, the device, the data, the steps, when its time is estimated, the memory."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pyrust_nn import PyrustNNError, _core
from pyrust_nn.models.devices import dtype_name
from pyrust_nn.models.model_folder import model_folder
from pyrust_nn.training.callbacks import ETACallback
from pyrust_nn.training.setup import TrainingData
from pyrust_nn.wording import counted

logger = logging.getLogger(__name__)


def log_overview(
    params: SimpleNamespace, model: torch.nn.Module, data: TrainingData, *, device: torch.device, dtype: torch.dtype, resumed: bool
) -> None:
    """Write the overview to the log, as one record. `resumed`: the training continues from a checkpoint."""
    trained, total = parameter_counts(model)
    rows, per_step = len(data.train), params.batch_size * params.gradient_accumulation_steps
    steps = math.ceil(params.num_epochs * math.ceil(rows / per_step))
    # The counts are those of the whole data set, with the rows held out.
    targets = f", {data.counts['target_tokens']:,} of them trained on" if data.counts.get("rows") == rows else ""
    evaluated = f"; {counted(len(data.evaluation), 'row')} to evaluate on" if data.evaluation else ""
    memory = estimated_memory(params, data, device, dtype)
    lines = {
        "model": f"{params.model}: {total:,} parameters, {trained:,} of them trained ({100 * trained / total:.3g}%)",
        "device": f"{device_name(device)}, {dtype_name(dtype)}",
        "data": f"{counted(rows, 'row')}, {counted(int(data.train.lengths().sum()), 'token')}{targets}{evaluated}",
        "training": f"{counted(steps, 'step')} of {counted(min(per_step, rows), 'row')}, {counted(float(params.num_epochs), 'epoch')}"
        + (", resumed from a checkpoint" if resumed else ""),
    }
    # A number would be a guess: the first steps are slower, and on this machine nothing has been measured yet.
    if steps > ETACallback.WARM_UP + ETACallback.MEASURED:
        lines["time"] = f"estimated after {counted(ETACallback.WARM_UP + ETACallback.MEASURED, 'step')}"
    if memory is not None:
        lines["memory"] = f"about {format_bytes(memory)}, besides Python and its libraries"
    logger.info("training\n%s", "\n".join(f"{name:<9} {text}" for name, text in lines.items()))


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """The number of trained weights and of all weights. A packed 4-bit weight counts as its elements."""
    sizes = [(p.numel() * _weights_per_element(p), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def estimate_inputs(
    params: SimpleNamespace, data: TrainingData, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, int]]:
    """The settings and the data's counts from which `check` estimates this training."""
    lengths = data.train.lengths()
    longest = int(lengths.argmax())
    settings = vars(params) | {
        "task": "finetune_lora" if hasattr(params, "lora_rank") else "finetune_full",
        "device": device.type,
        "dtype": dtype_name(dtype),
    }
    for name in ("lora_rank", "target_modules", "load_in_4bit"):
        settings.setdefault(name, None if name != "load_in_4bit" else False)
    rows = {
        "train": len(data.train),
        "longest": int(lengths[longest]),
        "longest_targets": data.train[longest].target_tokens,
        "tokens": int(data.counts.get("tokens", 0)),
        "targets": int(data.counts.get("target_tokens", 0)),
    }
    return settings, rows


def estimated_memory(params: SimpleNamespace, data: TrainingData, device: torch.device, dtype: torch.dtype) -> int | None:
    """The memory in bytes that `check` estimates for this training; None if it cannot."""
    settings, rows = estimate_inputs(params, data, device, dtype)
    try:
        found = _core.training_estimate(Path(model_folder(params.model)), json.dumps(settings, default=str), json.dumps(rows))
    except PyrustNNError as cause:  # a configuration that only transformers understands must not end the training
        logger.debug("the memory cannot be estimated: %s", cause)
        return None
    memory = json.loads(found)["memory"]
    return memory and memory["total"]


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def format_bytes(number: int) -> str:
    """`45.9 MB` or `13.2 GB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _weights_per_element(parameter: torch.Tensor) -> int:
    """How many weights one element of a parameter holds: more than one if it is quantized to 4 bits."""
    return 2 * parameter.element_size() if parameter.__class__.__name__ == "Params4bit" else 1
