"""Restores what a resumed training needs besides Trainer's own checkpoint, so that it continues exactly.

`resume.json` holds what Trainer does not save: the device, the precision, the number of threads (which decides how sums
are rounded), the packages' versions, the losses since the last line of metrics.jsonl. Trainer itself restores weights,
optimizer, schedule and random states.

Without these corrections a training that Trainer resumes differs from an uninterrupted one:

* It trains one step more if the checkpoint is from the last step within an epoch.
* It omits the evaluation of an epoch if the checkpoint was written before that evaluation. This also shifts dropout.
* It loses the losses since the last log line.
* It skips weights whose names differ between files and memory, with only a warning.
* It does not restore the number of threads.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pyrust_nn import InputError
from pyrust_nn.files import write_text
from pyrust_nn.training.checkpoints import NUMERIC_PACKAGES, RESUME_FILE, CheckpointTrainer

logger = logging.getLogger(__name__)


class _RestoreCallback(TrainerCallback):
    """Restores the extra state when Trainer has set its own counters and has made no step yet."""

    def __init__(self, trainer: CheckpointTrainer, state: dict[str, Any]) -> None:
        self.trainer, self.state = trainer, state

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.restore_extra_state(self.state)


@contextmanager
def restored(trainer: CheckpointTrainer, checkpoint: Path | None, step_folder: Path) -> Iterator[None]:
    """To be entered around `trainer.train(resume_from_checkpoint=checkpoint)`; does nothing without a checkpoint.

    Raises InputError if the checkpoint was trained in another precision.
    """
    if checkpoint is None:
        yield
        return
    state = json.loads((checkpoint / RESUME_FILE).read_text(encoding="utf-8"))
    if state["mixed_precision"] != trainer.args.mixed_precision:
        theirs, ours = (name.replace("no", "fp32") for name in (state["mixed_precision"], trainer.args.mixed_precision))
        raise InputError(
            f"{checkpoint.name} was trained in {theirs}, but this device computes in {ours}; resume it on the same kind of device"
        )
    now = {name: version(name) for name in NUMERIC_PACKAGES}
    changed = [f"{name} {state['packages'][name]} is now {now[name]}" for name in NUMERIC_PACKAGES if state["packages"][name] != now[name]]
    if changed:
        logger.warning("%s: the training resumes, but its results may differ in the last bits", ", ".join(changed))
    truncate_metrics(step_folder / "metrics.jsonl", int(checkpoint.name.rpartition("-")[2]))
    trainer.add_callback(_RestoreCallback(trainer, state))
    threads = torch.get_num_threads()
    torch.set_num_threads(state["threads"])
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to a training step: later ones will be written again, an incomplete one is dropped."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("step", math.inf) <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))
