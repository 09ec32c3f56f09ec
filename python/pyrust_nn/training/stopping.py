"""Ends a training with a checkpoint when a signal asks for it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from pyrust_nn import _core
from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn._runtime.streams import STOPPING_SIGNALS, handle_signals
from pyrust_nn.training.arguments import LoopArguments

DECISIONS = ("should_log", "should_evaluate", "should_save", "should_epoch_stop", "should_training_stop")

logger = logging.getLogger(__name__)


def synchronize(control: TrainerControl, ranks: Ranks) -> None:
    """Make what a callback, or a signal, decided in one rank the decision of all: they would wait for each other otherwise."""
    agreed = ranks.all_reduce_max(*(int(getattr(control, name)) for name in DECISIONS))
    for name, value in zip(DECISIONS, agreed, strict=True):
        setattr(control, name, bool(value))


class StopCallback(TrainerCallback):
    """Saves a checkpoint and ends the training after the current step if a signal requested it."""

    def __init__(self, ranks: Ranks) -> None:
        """No signal has come yet. One that comes to any of the `ranks` is for all."""
        self.ranks = ranks
        self.requested_by: str | None = None

    def on_step_end(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Make the loop save and stop."""
        if self.requested_by:
            control.should_save = control.should_training_stop = True
        return control

    def on_evaluate(self, args: LoopArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """The same after an evaluation, which belongs to its step."""
        return self.on_step_end(args, state, control)

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Treat SIGINT (and SIGTERM and SIGHUP in the binary's own process) as a request to stop; a second one ends the training at once.

        Raises KeyboardInterrupt at the end if a stop was requested, in all ranks. Outside of the main thread signals are left alone.
        """
        numbers = STOPPING_SIGNALS if _core.EMBEDDED else (signal.SIGINT,)
        before = handle_signals(numbers, self._request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        (asked,) = self.ranks.all_reduce_max(signal.Signals[self.requested_by].value if self.requested_by else 0)
        if asked:
            raise KeyboardInterrupt(signal.Signals(asked).name)

    def _request(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested_by:
            raise KeyboardInterrupt(name)
        self.requested_by = name
        logger.warning("%s: the current training step is finished and saved first; a second one ends the training at once", name)
