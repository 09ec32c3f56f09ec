"""Several processes that train together, over torch.distributed: gloo on a CPU, nccl on GPUs.

Every rank has the whole model and takes the same steps. Of a step's rows each computes a part, and the gradients are summed. The loss
of each row is divided by the target tokens of the whole step before, so the sum is what one process would have, up to the order in
which floats are added.

DistributedDataParallel is not used. It divides by the number of ranks, starts its reduction in the last backward pass of each rank (so
a rank without rows, or with another number of micro-batches, needs `no_sync` and `join`), wraps the model, and refuses to run a step
again with smaller micro-batches after memory ran out. What it gains is that it communicates during that last backward pass; here this
happens after it. Between GPUs of one machine the sum of a model's gradients takes a few percent of a step of full fine-tuning, and next
to nothing with LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from pyrust_nn import InputError
from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn.training.batches import balanced, row_length

if TYPE_CHECKING:
    from pyrust_nn._runtime.processes import Processes

T = TypeVar("T")

BUCKET_BYTES = 64 << 20
"""Gradients are summed in pieces of about this size: many small messages take longer, and a large one needs a second copy of all."""

CONNECTING = timedelta(minutes=5)
"""How long a rank waits for the connections to the others, which are all there."""

PATIENCE = timedelta(hours=6)
"""How long a rank waits for the others, which may be saving a model or asking for sample answers. A rank that ended is noticed at once."""


class GroupRanks(Ranks):
    """One of several processes that train together."""

    def __init__(self, processes: Processes, group: dist.ProcessGroup) -> None:
        """`group` is torch's."""
        self.rank, self.size, self.processes, self.group = processes.rank, processes.size, processes, group

    def seed(self, seed: int) -> int:
        """A seed of its own for each rank: the dropout of one process must not be repeated in the next."""
        return (seed + 0x9E3779B1 * self.rank) % 2**32

    def shard(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Parts of similar numbers of tokens, so that all ranks take equally long."""
        return balanced(sorted(rows, key=row_length, reverse=True), self.size)[self.rank]

    def broadcast_object(self, make: Callable[[], T]) -> T:
        """By way of the store."""
        return self.processes.broadcast_object(make)

    def sum_gradients(self, parameters: Iterable[torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        """A rank without rows has no gradients. One that no rank has stays None, as in one process: the optimizer leaves it alone."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        counts = torch.tensor([float(loss), *(parameter.grad is not None for parameter in trained)], dtype=torch.float64)
        dist.all_reduce(counts, group=self.group)
        whole, *ranks_with_gradient = counts.tolist()
        gradients = []
        for parameter, ranks in zip(trained, ranks_with_gradient, strict=True):
            if ranks:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in buckets(gradients):
            with flat(bucket) as values:
                dist.all_reduce(values, group=self.group)
        return torch.full((), whole, dtype=loss.dtype, device=loss.device)  # `tensor` would wait for a GPU

    def all_reduce_sum(self, value: float) -> float:
        """Summed in 64 bits."""
        values = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(values, group=self.group)
        return float(values)

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        """The largest of each."""
        tensor = torch.tensor([int(value) for value in values], dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tuple(tensor.tolist())

    def all_gather(self, value: T) -> list[T]:
        """Pickled, which is safe between processes of one training."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, parameters: Iterable[torch.Tensor]) -> None:
        """In buckets like gradients."""
        for bucket in buckets([parameter.detach() for parameter in parameters]):
            with flat(bucket) as values:
                dist.broadcast(values, 0, group=self.group)

    def barrier(self) -> None:
        """A reduction, since a barrier of nccl would take a GPU's memory."""
        self.all_reduce_max(0)


@contextmanager
def joined_ranks(processes: Processes, device: torch.device) -> Iterator[GroupRanks]:
    """Make the process group of a step's processes; while entered, torch computes with this process's part of the processors."""
    threads = torch.get_num_threads()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    processes.rendezvous()
    own = not dist.is_initialized()
    if own:
        store = dist.PrefixStore("group", processes.store)
        dist.init_process_group(backend, store=store, rank=processes.rank, world_size=processes.size, timeout=CONNECTING)
    elif dist.get_world_size() != processes.size:
        raise InputError(
            f"torch.distributed has {dist.get_world_size()} processes here, but the environment says {processes.size} (WORLD_SIZE); "
            "let this package make the process group"
        )
    group = dist.group.WORLD if own else dist.new_group(backend=backend, timeout=CONNECTING)
    assert group
    dist.distributed_c10d._set_pg_timeout(PATIENCE, group)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        processes.abort = group.abort  # nccl does not notice that a process has ended, gloo does
    torch.set_num_threads(processes.threads)
    try:
        yield GroupRanks(processes, group)
    finally:
        torch.set_num_threads(threads)
        processes.abort = None
        if own:
            dist.destroy_process_group()


def local_device(device: torch.device, processes: Processes) -> torch.device:
    """The device of this process: each has a GPU of its own. Raises InputError if there are not enough."""
    if device.type != "cuda":
        return device
    if device.index:
        raise InputError(f"device {device}: each of several processes has a GPU of its own; choose them by CUDA_VISIBLE_DEVICES")
    if processes.local_size > (count := torch.cuda.device_count()):
        raise InputError(f"{processes.local_size} processes need as many GPUs, but torch sees {count} here; set nproc_per_node to {count}")
    return torch.device("cuda", processes.local_rank)


def buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Consecutive tensors of one dtype and device, with about BUCKET_BYTES in all."""
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        bytes_ = tensor.numel() * tensor.element_size()
        if bucket and (size + bytes_ > BUCKET_BYTES or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += bytes_
    if bucket:
        yield bucket


@contextmanager
def flat(tensors: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the tensors' values as one vector, and write it back. A single contiguous tensor is not copied."""
    if len(tensors) == 1 and tensors[0].is_contiguous():
        yield tensors[0]
        return
    values = torch.cat([tensor.reshape(-1) for tensor in tensors])
    yield values
    for tensor, part in zip(tensors, values.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
