"""What training needs of a step's session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pyrust_nn._runtime.ranks import Ranks

if TYPE_CHECKING:
    from pyrust_nn.types import StepDataset


class TrainingSession(Protocol):
    """The part of a step's session (`_runtime.host.Session`) that training uses."""

    step_folder: Path
    offline: bool
    ranks: Ranks

    def dataset(self, name: str = "dataset_path") -> StepDataset:
        """The prepared data set of the parameter `name`."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Draw the step's progress bar: `done` of `total` training steps."""

    def metric(self, record: dict[str, Any]) -> None:
        """Append a line to the step's metrics.jsonl."""

    def publish_checkpoint(self, partial: Path, target: Path) -> None:
        """Rename a complete folder to its name as a checkpoint."""
