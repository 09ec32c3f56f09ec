"""Executed by LLaMA-Factory's Python: one training by its own `run_exp`, timed as the others are.

    python llamafactory_side.py settings.json figures.json

settings.json has what a user would write into its YAML file. The clock counts from the beginning of the training to the
end of its last step, as for the other sides; memory is the process's peak.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback


class Clock(TrainerCallback):
    """Seconds of the steps, and the losses that were logged."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.seconds, self.losses = 0.0, []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin."""
        self.begin = time.monotonic()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """So far."""
        self.seconds = time.monotonic() - self.begin

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Keep the loss."""
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


settings, figures = map(Path, sys.argv[1:])
clock = Clock()
run_exp(json.loads(settings.read_text(encoding="utf-8")), callbacks=[clock])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
figures.write_text(json.dumps({"training_seconds": clock.seconds, "losses": clock.losses, "peak_memory_bytes": peak}))
