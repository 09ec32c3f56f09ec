"""What a resumed training needs besides the states of its parts, so that it continues exactly.

`resume.json` holds the device, the precision, the numbers of threads and processes (which decide how sums are rounded), the packages'
versions, and the losses since the last line of metrics.jsonl.
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

from pyrust_nn import InputError
from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn.files import write_json, write_text

logger = logging.getLogger(__name__)

RESUME_FILE = "resume.json"
NUMERIC_PACKAGES = ("torch", "transformers", "peft")


def write_resume_file(folder: Path, state: dict[str, Any], *, device: torch.device, mixed_precision: str, processes: int) -> None:
    """Write resume.json into a checkpoint's folder: `state` and what `resumed` checks and restores."""
    facts = {
        "device": str(device),
        "mixed_precision": mixed_precision,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "packages": {name: version(name) for name in NUMERIC_PACKAGES},
    }
    write_json(folder / RESUME_FILE, facts | state)


@contextmanager
def resumed(checkpoint: Path | None, step_folder: Path, mixed_precision: str, ranks: Ranks) -> Iterator[dict[str, Any] | None]:
    """Yield the content of the checkpoint's resume.json; while entered, torch has the number of threads that the training began with.

    With another number of processes the threads stay. metrics.jsonl keeps the lines up to the checkpoint. Does nothing without a
    checkpoint. Raises InputError if the checkpoint was trained in another precision.
    """
    if checkpoint is None:
        yield None
        return
    state = json.loads((checkpoint / RESUME_FILE).read_text(encoding="utf-8"))
    if state["mixed_precision"] != mixed_precision:
        theirs, ours = (name.replace("no", "fp32") for name in (state["mixed_precision"], mixed_precision))
        raise InputError(
            f"{checkpoint.name} was trained in {theirs}, but this device computes in {ours}; resume it on the same kind of device"
        )
    now = {name: version(name) for name in NUMERIC_PACKAGES}
    changed = [f"{name} {state['packages'][name]} is now {now[name]}" for name in NUMERIC_PACKAGES if state["packages"][name] != now[name]]
    if changed:
        logger.warning("%s: the training resumes, but its results may differ in the last bits", ", ".join(changed))
    if ranks.first:
        truncate_metrics(step_folder / "metrics.jsonl", int(checkpoint.name.rpartition("-")[2]))
    threads = torch.get_num_threads()
    before = state.get("processes", 1)
    if before == ranks.size:
        torch.set_num_threads(state["threads"])
    else:
        logger.info("the number of processes was %d and is %d: losses may differ in the last digits", before, ranks.size)
    try:
        yield state
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
