"""Functions of autograd that have a first derivative alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

Backward = Callable[..., Any]


def first_alone(backward: Backward) -> Backward:
    """For a `backward` whose own steps autograd does not follow: where it is to (`create_graph`), this raises RuntimeError.

    torch's `once_differentiable` is silent where a path around the function exists, and the second derivative wrong.
    """

    @wraps(backward)
    def refusing(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("there is no second derivative of this function: call backward without create_graph")
        return backward(ctx, *grad_outputs)

    return refusing
