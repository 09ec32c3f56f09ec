"""Liger's kernels, which transformers puts into a model that trains on CUDA if the package is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import is_liger_kernel_available


def apply_liger(model: Any) -> None:
    """Put Liger's kernels into `model` if the package is installed, except for its losses."""
    if is_liger_kernel_available():
        from transformers.integrations.liger import apply_liger_kernel

        # Its fused loss would replace the output layer, as `TargetLoss` does.
        apply_liger_kernel(model, {"fused_linear_cross_entropy": False, "cross_entropy": False})


@contextmanager
def restored_globals(model: Any) -> Iterator[None]:
    """Put back the classes and functions of transformers' modules that were replaced while entered.

    Liger replaces some of them for a model (`apply_rotary_pos_emb`, the class of norms) and leaves them so. A later model of the
    same process would get its Triton kernels even on a CPU, where they fail.
    """
    names = {type(module).__module__ for module in model.modules()}
    modules = [sys.modules[name] for name in sorted(names) if name.startswith("transformers.models.")]
    before = [dict(vars(module)) for module in modules]
    try:
        yield
    finally:
        for module, kept in zip(modules, before, strict=True):
            for name, value in kept.items():
                if getattr(module, name, None) is not value:
                    setattr(module, name, value)
