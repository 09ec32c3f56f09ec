"""The process's memory: what is taken before training, and how much was used."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress

import torch

from pyrust_nn import ModelError


def own_memory(model: torch.nn.Module) -> None:
    """Take what learns out of the mapped file, whose pages the first optimizer step would have copied one by one, in six times the time."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def give_back_memory() -> None:
    """Have the system take back what loading and preparing have freed: glibc would keep it beside what training takes."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: torch's on a CUDA device (since training began), else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def empty_memory() -> None:
    """Free what nobody holds any longer, and give it back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_small(device: torch.device, what: str) -> ModelError:
    """The error that memory does not suffice for `what`, with its cures."""
    return ModelError(
        f"the memory of {device} is too small {what}; lower max_length (and set overlong), or take a smaller model, "
        "optimizer adamw_8bit, or LoRA with load_in_4bit"
    )
