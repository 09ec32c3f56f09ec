"""What a training asks of the processes that share it. `Ranks` is one process alone; `training.distributed` has several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Ranks:
    """A process that trains alone: it has all rows, and what it computes is the whole.

    With several processes each has a number, its rank. Rank 0 owns the session and alone writes to it. All call these methods in the
    same order, since each waits for the others.
    """

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """The seed of this rank's dropout and noise."""
        return seed

    def shard(self, rows: Sequence[Any]) -> Sequence[Any]:
        """This rank's part of the rows; there may be none."""
        return rows

    def broadcast_object(self, make: Callable[[], T]) -> T:
        """What `make` returns in rank 0, as JSON. The other ranks do not call it."""
        return make()

    def sum_gradients(self, parameters: Iterable[torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        """Replace the gradients by their sums over all ranks, and return the sum of the losses []."""
        return loss

    def all_reduce_sum(self, value: float) -> float:
        """The sum over all ranks."""
        return value

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        """The largest of each value over all ranks."""
        return values

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank."""
        return [value]

    def broadcast(self, parameters: Iterable[torch.Tensor]) -> None:
        """Give the parameters the values that they have in rank 0."""

    def barrier(self) -> None:
        """Return when all ranks have come here."""
