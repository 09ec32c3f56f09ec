"""NEFTune (arXiv 2310.05914): noise on the embeddings while a model trains, by transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noisy_embeddings(model: Any, alpha: float | None) -> Iterator[None]:
    """While entered, embeddings have noise of this strength in training mode. None: no noise."""
    if alpha is None:
        yield
        return
    from transformers.integrations.neftune import activate_neftune, deactivate_neftune

    hook = activate_neftune(model, alpha)
    try:
        yield
    finally:
        deactivate_neftune(model, hook)
