"""The losses of training steps as numbers: checked, and given to the meter.

A number of a GPU's tensor exists when everything that was started before has been computed. Python would wait for that after each backward
pass, and the GPU then for Python. So there a loss is read after the next step has been started, when its number is already there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


class LossReader:
    """Reads the loss of each step, on a GPU one step late."""

    def __init__(self, record: Callable[[float], None], diverged: Callable[[str], Exception]) -> None:
        """`record` gets each loss, in the order of the steps. `diverged` makes the error for one that is not finite, of its description."""
        self.record, self.diverged = record, diverged
        self._unread: tuple[int, torch.Tensor, torch.cuda.Event] | None = None

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Take the loss of a step (from 1), []. Raises `diverged` if it is infinite or NaN; on a GPU if the loss of the step before is."""
        if loss.device.type != "cuda":
            self._check(step, float(loss))
            return
        copied = loss.detach().to("cpu", non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.finish()
        self._unread = step, copied, event

    def finish(self) -> None:
        """Read what has not been read. Raises `diverged` if it is infinite or NaN."""
        unread, self._unread = self._unread, None
        if unread:
            step, copied, event = unread
            event.synchronize()
            self._check(step, float(copied))

    def _check(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise self.diverged(f"the loss became {loss} at step {step}")
        self.record(loss)
