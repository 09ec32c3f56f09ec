"""The memory of the process and the device: arranging it before training, measuring it, and what to do when it runs out."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress

import torch

from pyrust_nn import ModelError


def unmap_trainable(model: torch.nn.Module) -> None:
    """Copy trainable CPU weights out of the memory-mapped file.

    The first optimizer step would otherwise copy the mapped pages one by one, which takes six times as long.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def trim_heap() -> None:
    """Return to the system what loading and preparing have freed; glibc would keep it."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory in bytes: torch's on a CUDA device since training began, else the process's since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release_memory() -> None:
    """Collect garbage and return cached memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory_error(device: torch.device, what: str) -> ModelError:
    """The error for memory that does not suffice `what`, with what to do about it."""
    return ModelError(
        f"the memory of {device} is too small {what}; lower max_length (and set overlong), or use a smaller model, "
        "gradient_checkpointing (with compile it is not turned on by itself), optimizer adamw_8bit, or LoRA with load_in_4bit"
    )
