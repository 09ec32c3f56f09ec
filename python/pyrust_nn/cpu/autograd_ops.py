"""Helpers for `torch.autograd.Function`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

Backward = Callable[..., Any]


def first_order_only(backward: Backward) -> Backward:
    """Decorates a `backward` that is not differentiable itself: with `create_graph` it raises RuntimeError.

    torch's `once_differentiable` raises nothing if a path around the function exists, and the second derivative is wrong.
    """

    @wraps(backward)
    def checked(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("this function has no second derivative; call backward without create_graph")
        return backward(ctx, *grad_outputs)

    return checked
