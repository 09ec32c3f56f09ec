"""The device and the dtype that a model is computed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrust_nn import InputError
from pyrust_nn._runtime.environment import step_environment
from pyrust_nn._runtime.imports import fast_imports

if TYPE_CHECKING:
    import torch


def pick_device(device: str) -> torch.device:
    """`auto` (CUDA if available, else the CPU), `cpu`, `cuda` or `cuda:N`. Raises InputError for a GPU that does not exist."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    picked = torch.device(device)
    if picked.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise InputError(f"device {device}: torch sees no GPU here; use auto or cpu, `pyrust-nn doctor` says more")
        if picked.index is not None and picked.index >= count:
            raise InputError(f"device {device}: the GPUs here are cuda:0 to cuda:{count - 1}")
    return picked


def check_device(device: str) -> None:
    """`pick_device` before a step begins, in the environment of a step: torch reads it when it is imported. Called by Rust."""
    with step_environment(offline=False), fast_imports():
        pick_device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`bf16`, `fp16`, `fp32` or `auto`: on CUDA bf16 if the GPU supports it, else fp16; on a CPU fp32."""
    import torch

    if dtype != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype, as parameters have it: `bf16`, `fp16`, `fp32`."""
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[str(dtype).removeprefix("torch.")]
