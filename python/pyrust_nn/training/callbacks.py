"""What a training reports while it runs: remaining time, progress bar, log lines, metrics.jsonl."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from transformers import TrainerCallback

from pyrust_nn.training.session import TrainingSession
from pyrust_nn.wording import counted, duration

if TYPE_CHECKING:
    from transformers import TrainerControl as Control
    from transformers import TrainerState as State
    from transformers import TrainingArguments

    from pyrust_nn.training.arguments import LoopArguments

    Args: TypeAlias = LoopArguments | TrainingArguments

logger = logging.getLogger(__name__)


@dataclass
class TrainingMeter:
    """The loop's counts in this process. Losses are means over a step's target tokens."""

    rows: int = 0
    tokens: int = 0  # without padding
    target_tokens: int = 0
    first_loss: float | None = None
    last_loss: float | None = None

    def record_loss(self, loss: float) -> None:
        """Record the loss of a finished step."""
        self.last_loss = loss
        if self.first_loss is None:
            self.first_loss = loss


class ETACallback(TrainerCallback):
    """Estimates the remaining wall-clock time of a training, of this package's loop or of transformers' Trainer.

    A step lasts from the end of the previous step, evaluation or checkpoint to its own end. The remaining time is the
    mean of the latest WINDOW steps times the number of remaining steps, plus the remaining evaluations and checkpoints,
    each at the mean duration measured so far (zero if none was measured). The first WARM_UP steps of the process are
    slower, because of allocation and compilation, and are excluded. There is no estimate before MEASURED further steps.
    Steps of an earlier process (before a resume) are not measured.

    Public state: `eta_seconds`, None before the first estimate; `training_seconds`, the time of all steps in this
    process, without evaluation and saving.
    """

    WARM_UP = 2
    MEASURED = 2
    WINDOW = 100

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds and is monotonic."""
        self.clock = clock
        self.eta_seconds: float | None = None
        self.training_seconds = 0.0

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Start measuring."""
        self.eta_seconds = None
        self.training_seconds = 0.0
        self._process_steps = 0
        self._step_seconds: deque[float] = deque(maxlen=self.WINDOW)
        self._evaluation_seconds: list[float] = []
        self._save_seconds: list[float] = []
        self._evaluated_at = self._saved_at = state.global_step
        self._mark = self.clock()

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Measure a step."""
        seconds = self._lap()
        self.training_seconds += seconds
        self._process_steps += 1
        if self._process_steps > self.WARM_UP:
            self._step_seconds.append(seconds)
        self._estimate(args, state)

    def on_evaluate(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Measure an evaluation."""
        self._evaluation_seconds.append(self._lap())
        self._evaluated_at = state.global_step
        self._estimate(args, state)

    def on_save(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Measure a checkpoint."""
        self._save_seconds.append(self._lap())
        self._saved_at = state.global_step
        self._estimate(args, state)

    def _lap(self) -> float:
        before, self._mark = self._mark, self.clock()
        return self._mark - before

    def _estimate(self, args: Args, state: State) -> None:
        steps = state.max_steps - state.global_step
        if steps > 0 and len(self._step_seconds) < self.MEASURED:
            return
        eta = steps * fmean(self._step_seconds) if steps > 0 else 0.0
        for seconds, strategy, every, last in (
            (self._evaluation_seconds, args.eval_strategy, state.eval_steps, self._evaluated_at),
            (self._save_seconds, args.save_strategy, state.save_steps, self._saved_at),
        ):
            if seconds:
                eta += fmean(seconds) * _remaining(strategy, every, last, args.num_train_epochs, state.max_steps)
        self.eta_seconds = eta


def _remaining(strategy: str, every: float, last: int, epochs: float, max_steps: int) -> int:
    """The number of evaluations (or checkpoints) after step `last`: one at the end of each period, and one at the end."""
    if strategy == "no" or last >= max_steps:
        return 0
    # max_steps is epochs x steps per epoch, rounded up.
    period = int(every) if strategy == "steps" else max(1, math.floor(max_steps / epochs))
    return (max_steps - 1) // period - last // period + 1


class ProgressCallback(TrainerCallback):
    """Draws the session's progress bar, and writes a log line whenever the loss is logged."""

    def __init__(self, session: TrainingSession, eta: ETACallback, meter: TrainingMeter) -> None:
        """`eta` must precede this callback in the list."""
        self.session, self.eta, self.meter = session, eta, meter
        self._estimated = False

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Draw the bar."""
        self._estimated = False
        self.session.progress(state.global_step, state.max_steps)

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Update the bar. The first estimate of the time is also a line of its own."""
        parts = [f"loss {self.meter.last_loss:.4g}"] if self.meter.last_loss is not None else []
        if self.eta.training_seconds > 0:
            parts.append(f"{self.meter.tokens / self.eta.training_seconds:,.0f} tokens/s")
        if self.eta.eta_seconds is not None:
            parts.append(f"{duration(self.eta.eta_seconds)} left")
            if not self._estimated and state.global_step < state.max_steps:
                left = state.max_steps - state.global_step
                logger.info("remaining time: about %s for %s", duration(self.eta.eta_seconds), counted(left, "step"))
            self._estimated = True
        self.session.progress(state.global_step, state.max_steps, "  ".join(parts))

    def on_log(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Write the log line."""
        logs = kwargs["logs"]
        if "loss" in logs:
            eta = self.eta.eta_seconds
            left = f", {duration(eta)} left" if eta is not None and state.global_step < state.max_steps else ""
            logger.info(
                "step %d of %d, epoch %.2f: %s %.4f, learning rate %.3g%s",
                state.global_step,
                state.max_steps,
                state.epoch,
                "mean loss" if args.logging_steps > 1 else "loss",
                logs["loss"],
                logs["learning_rate"],
                left,
                extra={"shown": "off_terminal"},  # the bar shows it
            )
        if "eval_loss" in logs:
            logger.info("step %d of %d: evaluation loss %.4f", state.global_step, state.max_steps, logs["eval_loss"])


class MetricsCallback(TrainerCallback):
    """Writes metrics.jsonl: an object every `logging_steps`, at the last step and at every evaluation.

    Keys, each present if known: step, epoch, loss (mean of the steps since the last object), eval_loss, learning_rate
    and grad_norm (before clipping) of that step, target_tokens_per_second, tokens_per_second (since the last object,
    without evaluation and saving), peak_memory_bytes, eta_seconds.
    """

    def __init__(self, session: TrainingSession, eta: ETACallback, meter: TrainingMeter, peak_memory_bytes: Callable[[], int]) -> None:
        """`eta` must precede this callback in the list."""
        self.session, self.eta, self.meter, self.peak_memory_bytes = session, eta, meter, peak_memory_bytes
        self._last = (0.0, 0, 0)

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> Control:
        """Log the last step too."""
        control.should_log |= state.global_step >= state.max_steps
        return control

    def on_log(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Write a line for the steps since the last one."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        now = (self.eta.training_seconds, self.meter.tokens, self.meter.target_tokens)
        seconds, tokens, target_tokens = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        record: dict[str, float] = {name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        if seconds > 0:
            record |= {"target_tokens_per_second": target_tokens / seconds, "tokens_per_second": tokens / seconds}
        self._write(state, record)

    def on_evaluate(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Write a line with an evaluation's loss."""
        self._write(state, {"eval_loss": kwargs["metrics"]["eval_loss"]})

    def _write(self, state: State, record: dict[str, float]) -> None:
        known = {
            "step": state.global_step,
            "epoch": state.epoch,
            **record,
            "peak_memory_bytes": self.peak_memory_bytes(),
            "eta_seconds": self.eta.eta_seconds,
        }
        # JSON has no infinity, and gradients overflow in the first steps of fp16.
        self.session.metric({k: v for k, v in known.items() if v is not None and math.isfinite(v)})
