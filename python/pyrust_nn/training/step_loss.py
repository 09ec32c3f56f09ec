"""The loss of a training step and its gradients, computed in micro-batches.

The loss is the sum over the step's target tokens divided by their number, so it does not depend on how `batches` divides the
rows. If memory runs out, the step restarts with smaller micro-batches.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pyrust_nn.training.batches import MicroBatching, on_device, row_length, target_tokens
from pyrust_nn.training.memory import out_of_memory_error, release_memory
from pyrust_nn.training.rows import IGNORED, Row
from pyrust_nn.training.target_loss import TargetLoss

logger = logging.getLogger(__name__)


class StepLoss:
    """Computes losses and gradients of rows, in micro-batches that fit into memory."""

    def __init__(self, model: Any, batching: MicroBatching, device: torch.device, dtype: torch.dtype, *, may_checkpoint: bool) -> None:
        """`dtype` is what is computed in. may_checkpoint: whether the model may be made to recompute its activations if memory runs out.

        Not if it does already, and not if its layers are compiled: compiled layers are not checkpointed as a whole (see `compiling`).
        """
        self.model, self.batching, self.device, self.dtype = model, batching, device, dtype
        self.may_checkpoint = may_checkpoint
        # On a CPU the loss is not scaled (fp16 is refused there).
        self.target_loss = TargetLoss(model, in_place=device.type == "cpu")
        self._takes_count = _takes_count(self.target_loss.base)

    def add_gradients(self, rows: Sequence[Row], targets: torch.Tensor, scaler: torch.amp.GradScaler) -> torch.Tensor:
        """Compute the loss of a step's rows [], with its gradients (times the scaler's factor) in the weights.

        targets: the number of the step's target tokens, []. Raises ModelError if memory does not suffice for a single row.
        """
        while (loss := self._try(rows, targets, scaler)) is None:
            self.model.zero_grad()
            release_memory()
        return loss

    def _try(self, rows: Sequence[Row], targets: torch.Tensor, scaler: torch.amp.GradScaler) -> torch.Tensor | None:
        """None if memory ran out, and the step must restart with smaller micro-batches."""
        total = torch.zeros((), device=self.device)
        parts = self.batching.split(rows)
        try:
            for part in parts:
                loss = self._loss(part, targets)
                scaler.scale(loss).backward()
                total += loss.detach()
        except torch.OutOfMemoryError as cause:
            self._reduce_memory(parts, cause)
            return None
        return total

    def loss_sum(self, rows: Sequence[Row]) -> torch.Tensor:
        """The sum of the losses of these rows' target tokens, without gradients, float64 []. Fewer rows at once if memory runs out."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        parts = self.batching.split(rows)
        try:
            for part in parts:
                count = target_tokens(part)
                with torch.no_grad():
                    total += self._loss(part, torch.full((), count, device=self.device)).double() * count
            return total
        except torch.OutOfMemoryError:
            if len(parts) == len(rows):
                raise
            self._halve_micro_batches(parts)
        release_memory()
        return self.loss_sum(rows)

    def _loss(self, rows: list[Row], targets: torch.Tensor) -> torch.Tensor:
        """The sum of a micro-batch's token losses divided by `targets`; in training with its share of the router's loss."""
        inputs = on_device(self.batching.inputs(rows), self.device)
        if not self.target_loss.usable:
            del inputs["target_positions"]
        count = {"num_items_in_batch": targets} if self._takes_count else {}
        mixed = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with self.target_loss, mixed:
            outputs = self.model(**inputs, **count)
        loss: torch.Tensor = outputs["loss"].float()
        mean = not (self.target_loss.usable or self._takes_count)  # of the micro-batch
        router = getattr(outputs, "aux_loss", None)
        if mean or router is not None:
            share = (inputs["labels"][:, 1:] != IGNORED).sum() / targets
            loss = loss * share if mean else loss
            if router is not None:
                # The model adds its router's whole loss. A micro-batch counts its share of it, an evaluation none.
                counted = share if torch.is_grad_enabled() else 0
                loss = loss - (1 - counted) * self.target_loss.base.router_aux_loss_coef * router.float()
        return loss

    def _reduce_memory(self, parts: list[list[Row]], cause: torch.OutOfMemoryError) -> None:
        largest = max(parts, key=_tokens)
        if len(largest) > 1:
            self._halve_micro_batches(parts)
        elif self.may_checkpoint:
            self.may_checkpoint = False
            enable_checkpointing(self.target_loss.base)
            logger.warning("memory ran out: gradient checkpointing is turned on, which makes training slower")
        else:
            raise out_of_memory_error(self.device, f"to train on a row of {row_length(largest[0])} tokens") from cause

    def _halve_micro_batches(self, parts: list[list[Row]]) -> None:
        self.batching = replace(self.batching, max_tokens=max(1, max(map(_tokens, parts)) // 2))
        logger.warning("memory ran out: micro-batches are limited to %d tokens", self.batching.max_tokens)


def enable_checkpointing(model: Any) -> None:
    """Make the model recompute its activations in the backward pass."""
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def _takes_count(base: Any) -> bool:
    """Whether the model divides its loss by `num_items_in_batch`, by transformers' convention."""
    declared: bool | None = getattr(base, "accepts_loss_kwargs", None)
    if declared is not None:
        return declared
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(base.forward).parameters.values())


def _tokens(rows: Sequence[Row]) -> int:
    return sum(map(row_length, rows))
