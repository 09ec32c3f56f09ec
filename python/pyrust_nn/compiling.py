"""`compile`: a model's layers run through torch.compile for the time of a training.

Each decoder layer is compiled in place (`Module.compile`), so modules, parameters and state dicts keep their names. Shapes
are dynamic, since hardly two micro-batches have the same number of tokens. Losses agree with uncompiled ones but for
rounding, and for a dropout's numbers in the last layer, which uncompiled draws at target tokens alone (`last_layer`).
What is outside of the layers (embedding, head, loss) stays as it is, and so does attention over packed rows, whose
lengths differ each time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from pyrust_nn import InputError, SetupError
from pyrust_nn.attention import NAME, can_pack, rows_attention

logger = logging.getLogger(__name__)

OPTIONS = {"fallback_random": True}


def check_compilable(config: Any) -> None:
    """Raise InputError for a model (by its configuration) whose layers torch would compile anew again and again."""
    if not can_pack(config):
        raise InputError(
            "compile cannot be on: some layers of this model are recurrent, and torch.compile unrolls them for every length of a row; "
            "turn compile off"
        )


def check_compiler(device: torch.device) -> None:
    """Raise SetupError where nothing can be compiled for `device`: no compiler, no headers, or one that fails."""
    # A number that no earlier program had: what is in torch's cache would need no compiler.
    unique = time.time_ns()
    torch.compiler.reset()
    try:
        torch.compile(lambda x: x * 2 + unique)(torch.ones(2, device=device))
    except Exception as cause:
        raise SetupError(
            "compile is on, and torch.compile failed on a first small function; it needs a C++ compiler and Python's headers "
            f"(on Debian and Ubuntu: apt install g++ python3-dev). Install them, or turn compile off. It said: {_first_line(cause)}"
        ) from cause
    finally:
        torch.compiler.reset()


@contextmanager
def compiled_layers(model: Any, *, checkpointing: bool) -> Iterator[None]:
    """Compile the decoder layers of `model` (transformers' or peft's) while it is entered.

    `checkpointing`: whether activations are computed again. That is done by a layer, and torch does not compile it around
    the break that packed attention makes, so then a layer's parts are compiled each by itself.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    parts = [part for layer in layers for part in layer.children()] if checkpointing else layers
    logger.info("%d layers are compiled: the first steps take longer", len(layers))
    hidden = base.register_forward_pre_hook(_hide_lengths, with_kwargs=True)
    AttentionInterface.register(NAME, torch.compiler.disable(_attention_between))
    for part in parts:
        part.compile(dynamic=True, options=OPTIONS)
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None
        hidden.remove()
        AttentionInterface.register(NAME, rows_attention)
        torch.compiler.reset()


class _Lengths:
    """The lengths of packed rows, where torch.compile does not look: it would compile anew for each number of rows."""

    def __init__(self, lengths: list[int] | None) -> None:
        self.lengths = lengths


def _hide_lengths(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "row_lengths" in kwargs:
        kwargs = kwargs | {"row_lengths": _Lengths(kwargs["row_lengths"])}
    return args, kwargs


def _attention_between(*args: Any, row_lengths: _Lengths | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """`rows_attention`; it is not compiled, what comes before it and after it in a layer is."""
    lengths = row_lengths.lengths if row_lengths else None
    kwargs["row_lengths"] = lengths
    return rows_attention(*args, **kwargs)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
