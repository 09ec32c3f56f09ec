"""The parameter `compile`: a model's layers are compiled by torch.compile while it trains.

Each decoder layer is compiled in place (`Module.compile`), so modules, parameters and state dicts keep their names. Shapes
are dynamic, since micro-batches rarely have the same number of tokens. Losses equal uncompiled ones except for rounding,
and for dropout in the last layer, which without `compile` is drawn for target tokens only (see `target_rows`). Embedding,
output layer and loss are not compiled, nor is attention over packed rows, whose lengths differ each time.

The lengths of packed rows are hidden from torch, which would otherwise compile again for each number of rows. With
gradient checkpointing the parts of a layer are compiled separately, because torch does not compile a checkpointed layer
that contains a graph break, and does not report this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from pyrust_nn import InputError, SetupError, _core
from pyrust_nn.cpu.packed_attention import PACKED_ATTENTION, can_pack, rows_attention
from pyrust_nn.models.devices import pick_device
from pyrust_nn.models.model_folder import first_line
from pyrust_nn.wording import counted

logger = logging.getLogger(__name__)

COMPILE_OPTIONS = {"fallback_random": True}


def check_compilable(config: Any) -> None:
    """Raise InputError for a configuration whose layers torch would recompile again and again."""
    if not can_pack(config):
        raise InputError(
            "compile cannot be on: some layers of this model are recurrent, and torch.compile unrolls them for every row length; "
            "turn compile off"
        )


def refuse_without_compiler(device: str) -> None:
    """Try the compiler before a training begins. `device` is the parameter.

    Raises SetupError.
    """
    _core.status("trying the compiler")
    try:
        check_compiler(pick_device(device).type)
    finally:
        _core.status("")


@cache
def check_compiler(device: str) -> None:
    """Raise SetupError if torch.compile does not work for devices of the type `device`: no compiler, no headers, or a failing one."""
    # A unique constant: a function in torch's cache would need no compiler.
    unique = time.time_ns()
    torch.compiler.reset()
    try:
        torch.compile(lambda x: x * 2 + unique)(torch.ones(2, device=device))
    except Exception as cause:
        raise SetupError(
            "compile is on, and torch.compile failed on a small test function; it needs a C++ compiler and Python's headers "
            f"(on Debian and Ubuntu: apt install g++ python3-dev). Install them, or turn compile off. The error was: {first_line(cause)}"
        ) from cause
    finally:
        torch.compiler.reset()


@contextmanager
def compiled_layers(model: Any, *, checkpointing: bool) -> Iterator[None]:
    """Compile the decoder layers of `model` (transformers' or peft's) while entered.

    checkpointing: whether activations are recomputed in the backward pass. The layer does that, and torch does not compile
    a checkpointed layer around the graph break of packed attention, so the parts of a layer are compiled separately then.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    parts = [part for layer in layers for part in layer.children()] if checkpointing else layers
    logger.info("compiling %s: the first steps take longer", counted(len(layers), "layer"))
    hook = base.register_forward_pre_hook(_hide_lengths, with_kwargs=True)
    AttentionInterface.register(PACKED_ATTENTION, torch.compiler.disable(_uncompiled_attention))
    for part in parts:
        part.compile(dynamic=True, options=COMPILE_OPTIONS)
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None
        hook.remove()
        AttentionInterface.register(PACKED_ATTENTION, rows_attention)
        torch.compiler.reset()


class _HiddenLengths:
    """Hides the lengths of packed rows from torch.compile, which would recompile for each number of rows."""

    def __init__(self, lengths: list[int] | None) -> None:
        self.lengths = lengths


def _hide_lengths(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "row_lengths" in kwargs:
        kwargs = kwargs | {"row_lengths": _HiddenLengths(kwargs["row_lengths"])}
    return args, kwargs


def _uncompiled_attention(*args: Any, row_lengths: _HiddenLengths | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """`rows_attention`, excluded from compilation; the rest of the layer is compiled."""
    lengths = row_lengths.lengths if row_lengths else None
    kwargs["row_lengths"] = lengths
    return rows_attention(*args, **kwargs)
