"""Complete checkpoints, from which a training resumes exactly, and which old ones are deleted.

A checkpoint holds the weights (as `save_model` writes them), optimizer.pt, scheduler.pt, scaler.pt (fp16), rng_state.pth (the
states of the random generators; rng_state_1.pth has those of the second process), trainer_state.json (transformers'
TrainerState) and resume.json (see `resuming`). Beside them are begun.json (parameters and hashes of data and model) and
manifest.json (every file with its hash), which Rust writes. Rust also chooses and verifies the checkpoint of a resumed step.

A checkpoint is written under a temporary name and renamed when it is complete.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pyrust_nn import InputError
from pyrust_nn.files import removed_on_failure, replace_symlink
from pyrust_nn.models.loading import load_model
from pyrust_nn.training.random_states import random_file
from pyrust_nn.training.session import TrainingSession

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"


class Checkpoints:
    """The checkpoints of a training, in one folder."""

    def __init__(self, folder: str, session: TrainingSession, *, every: int, limit: int | None) -> None:
        """`every` and `limit`: see `prune_checkpoints`."""
        self.folder, self.session, self.every, self.limit = Path(folder), session, every, limit

    def path(self, step: int) -> Path:
        """The folder of a training step's checkpoint."""
        return self.folder / f"checkpoint-{step}"

    def last(self) -> Path | None:
        """The newest one; all its weights are finite."""
        steps = saved_steps(self.folder)
        return self.path(steps[-1]) if steps else None

    @contextmanager
    def writing(self, step: int, best: int | None) -> Iterator[Path]:
        """Yield an empty folder that becomes the checkpoint of `step`; then remove obsolete ones. `best`: the step of the best one."""
        partial = self.folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        made = partial / self.path(step).name
        made.mkdir(parents=True)
        with removed_on_failure(partial, self.path(step)):
            yield made
            self.session.publish_checkpoint(made, self.path(step))
        partial.rmdir()
        self.prune(step, best)

    def prune(self, newest: int, best: int | None) -> None:
        """Remove checkpoints that are obsolete now that there is the one of step `newest`; `best` is the step of the best one."""
        prune_checkpoints(self.folder, newest=newest, best=best, every=self.every, limit=self.limit)

    def prune_at_end(self, best: int | None) -> None:
        """Remove what could not be removed when a later checkpoint was written."""
        if steps := saved_steps(self.folder):
            self.prune(steps[-1], best)


def save_states(folder: Path, parts: dict[str, Any], random_states: list[dict[str, Any]]) -> None:
    """Save the state of each part (`optimizer`, `scheduler`, `scaler`) that has one, and those of each rank's random generators."""
    for name, part in parts.items():
        if state := part.state_dict():
            torch.save(state, folder / f"{name}.pt")
    for rank, states in enumerate(random_states):
        torch.save(states, folder / random_file(rank))


def load_states(folder: Path, parts: dict[str, Any]) -> None:
    """Restore the states of the parts that `save_states` saved."""
    for name, part in parts.items():
        if part.state_dict():
            part.load_state_dict(torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True))


def saved_steps(folder: Path) -> list[int]:
    """The training steps whose checkpoints are in a folder, in ascending order."""
    numbers = (path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def prune_checkpoints(folder: Path, *, newest: int, best: int | None, every: int, limit: int | None) -> None:
    """Link the best checkpoint as `best` and remove obsolete ones.

    The best and the newest are kept, and those after it, which a resumed training makes anew. Of the others, those whose
    step is not a multiple of `every` are removed (they were the best or the newest once), then the oldest until `limit` are left.
    """
    steps = [step for step in saved_steps(folder) if step <= newest]
    kept = {newest} | ({best} if best in steps else set())
    if best in kept:
        if (folder / "best").is_dir() and not (folder / "best").is_symlink():
            shutil.rmtree(folder / "best")  # the session was copied, and the copy followed the link
        replace_symlink(folder / "best", f"checkpoint-{best}")
    others = [step for step in steps if step not in kept]
    removed = [step for step in others if step % every]
    regular = [step for step in others if not step % every]
    if limit:
        removed += regular[: max(0, len(regular) - max(0, limit - len(kept)))]
    for step in removed:
        try:
            shutil.rmtree(folder / f"checkpoint-{step}")
        except OSError as cause:  # it costs space, and the training nothing
            logger.warning("the old checkpoint %s cannot be removed: %s", folder / f"checkpoint-{step}", cause)


def load_weights(model: Any, folder: Path) -> None:
    """Load the weights of a checkpoint into the model, or into the active adapter of a PeftModel."""
    if hasattr(model, "peft_config"):
        load_adapter(model, folder)
    else:
        # By way of a model, since weights may have other names in files than in memory (experts).
        loaded = load_model(str(folder), device=torch.device("cpu"), dtype=model.dtype)
        model.load_state_dict(loaded.state_dict())


def load_adapter(model: Any, folder: Path) -> None:
    """Load a saved adapter's weights into the active adapter of a PeftModel. Raises InputError unless all tensors match."""
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    name = model.active_adapter
    weights = load_peft_weights(str(folder), device="cpu")
    known = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if weights.keys() != known.keys():
        differing = ", ".join(sorted(weights.keys() ^ known.keys())[:3])
        raise InputError(f"{folder} does not match the model: {differing} are missing or unexpected; restart the step with overwrite")
    set_peft_model_state_dict(model, weights, adapter_name=name)
