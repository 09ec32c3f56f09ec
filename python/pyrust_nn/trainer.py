"""transformers' Trainer with our order of rows, exact losses and whole checkpoints.

For Trainer a training step is one batch: it asks for the number of batches once, and rows would be lost if that changed.
`training_step` cuts its rows into micro-batches (see `batches`).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerControl

from pyrust_nn import ModelError
from pyrust_nn.batches import Batches, Row, length, target_tokens
from pyrust_nn.callbacks import Session, TrainingMeter
from pyrust_nn.checkpoints import CheckpointTrainer
from pyrust_nn.evaluation import EvaluationCallback, set_evaluating
from pyrust_nn.loss import TargetLoss
from pyrust_nn.memory import empty_memory, too_small
from pyrust_nn.optimizers import loraplus_optimizer
from pyrust_nn.rows import IGNORED, Sample

if TYPE_CHECKING:
    from pyrust_nn.saving import AnyTokenizer

logger = logging.getLogger(__name__)


class EpochSampler(Sampler[int]):
    """Every row once an epoch, in an order that depends on the seed and the epoch's number alone."""

    def __init__(self, rows: Sized, seed: int) -> None:
        """`rows` is whatever has a length."""
        self.count, self.seed, self.epoch = len(rows), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of rows."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """The epoch's order."""
        order = list(range(self.count))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        return iter(order)


def collate(rows: list[Sample]) -> dict[str, list[Sample]]:
    """A step's rows as they are; `training_step` cuts them into micro-batches."""
    return {"rows": rows}


class ConversationTrainer(CheckpointTrainer):
    """transformers' Trainer with our order of rows, exact losses, and whole checkpoints."""

    def __init__(
        self,
        *,
        tokenizer: AnyTokenizer,
        meter: TrainingMeter,
        session: Session,
        evaluation: EvaluationCallback,
        batches: Batches,
        loraplus_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        """`kwargs` are Trainer's own; `batches` says how a step is cut."""
        # Trainer turns the cache off for training; what is saved must not keep that.
        self.use_cache = kwargs["model"].config.use_cache
        super().__init__(**kwargs)
        # Not as Trainer's processing_class, which would replace the generation config's stop set by one token.
        self.tokenizer = tokenizer
        self.meter = meter
        self.session, self.evaluation = session, evaluation
        self.add_callback(evaluation)
        self.batches = batches
        self.loraplus_ratio = loraplus_ratio
        # On a CPU no loss is scaled (fp16 is refused there), and a lone process has no hooks on gradients.
        in_place = self.args.device.type == "cpu" and self.args.world_size == 1
        self.target_loss = TargetLoss(self.model, in_place=in_place)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return EpochSampler(self.train_dataset if train_dataset is None else train_dataset, self.args.seed)

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **_: Any) -> DataLoader[Any]:
        # Trainer's asks whether the rows are `datasets`' own, for which the package has to be loaded.
        sampler = sampler_fn(dataset) if sampler_fn is not None else None
        pinned = self.args.dataloader_pin_memory
        loader = DataLoader(dataset, batch_size, sampler=sampler, collate_fn=self.data_collator, pin_memory=pinned)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer would walk over all parameters for every micro-batch."""
        return 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's, or LoRA+'s."""
        if self.loraplus_ratio and self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer: torch.optim.Optimizer | None = loraplus_optimizer(
                self.model, kind, options, ratio=self.loraplus_ratio, weight_decay=self.args.weight_decay
            )
        return super().create_optimizer(model)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, list[Sample]]], device: torch.device) -> torch.Tensor:
        count = torch.tensor(sum(target_tokens(batch["rows"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The sum of a micro-batch's losses over the target tokens of its whole step, `num_items_in_batch`."""
        with self.target_loss:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if num_items_in_batch is not None and getattr(outputs, "aux_loss", None) is not None:
            # The model adds the whole loss of its router. A part of a step has a part of it, an evaluation is of tokens alone.
            share = (inputs["labels"][:, 1:] != IGNORED).sum() / num_items_in_batch if torch.is_grad_enabled() else 0
            loss = loss - (1 - share) * self.target_loss.base.router_aux_loss_coef * outputs.aux_loss
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, list[Sample]], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of a whole step; stops before its optimizer step where the loss is no number."""
        rows = inputs["rows"]
        model.train()
        while (loss := self._forward_backward(model, rows, num_items_in_batch)) is None:
            model.zero_grad()
            empty_memory()
        step_loss = float(loss)
        if not math.isfinite(step_loss):
            raise ModelError(self._diverged(f"the loss became {step_loss} at step {self.state.global_step + 1}"))
        self.meter.tokens += _tokens(rows)
        self.meter.target_tokens += target_tokens(rows)
        self.meter.record_loss(step_loss)
        return loss

    def _forward_backward(self, model: torch.nn.Module, rows: list[Sample], targets: Any) -> torch.Tensor | None:
        """The step's loss, its gradients being in the weights; None if memory ran out and another try takes less."""
        total = torch.zeros((), device=self.args.device)
        parts = self.batches.cut(rows)
        try:
            for number, part in enumerate(parts, 1):
                # Only the last part's gradients are exchanged between processes.
                with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                    inputs = self._prepare_inputs(self.batches.inputs(part))
                    with self.compute_loss_context_manager():
                        loss = self.compute_loss(model, inputs, num_items_in_batch=targets)
                    self.accelerator.backward(loss)
                    total += loss.detach()
        except torch.OutOfMemoryError as cause:
            if self.args.world_size > 1:
                raise  # the other processes are in the middle of theirs
            self._take_less_memory(parts, cause)
            return None
        return total

    def _take_less_memory(self, parts: list[list[Row]], cause: torch.OutOfMemoryError) -> None:
        largest = max(parts, key=_tokens)
        if len(largest) > 1:
            self._halve(parts)
        elif not self.args.activation_checkpointing:
            self.args.activation_checkpointing = True
            self.target_loss.base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            logger.warning("memory ran out: gradient checkpointing is on from here on, which takes time")
        else:
            raise too_small(self.args.device, f"to train on a row of {length(largest[0])} tokens") from cause

    def _halve(self, parts: list[list[Row]]) -> None:
        self.batches = replace(self.batches, max_tokens=max(1, max(map(_tokens, parts)) // 2))
        logger.warning("memory ran out: micro-batches have %d tokens at most from here on", self.batches.max_tokens)

    def _evaluated(self, rows: list[Row]) -> float:
        """The sum of the losses of these rows' target tokens; where memory runs out, of fewer rows at once."""
        total = 0.0
        parts = self.batches.cut(rows)
        try:
            for part in parts:
                count = target_tokens(part)
                inputs = self._prepare_inputs(self.batches.inputs(part))
                with torch.no_grad(), self.compute_loss_context_manager():
                    total += float(self.compute_loss(self.model, inputs, num_items_in_batch=count)) * count
            return total
        except torch.OutOfMemoryError:
            if len(parts) == len(rows):
                raise
            self._halve(parts)
        empty_memory()
        return self._evaluated(rows)

    def check_weights(self) -> None:
        """Raise ModelError if the last optimizer step broke a weight: no later loss would show it."""
        # By their bounds, through which both show: isfinite would make a second matrix of the vocabulary.
        learning = (p.detach() for p in self.model.parameters() if p.requires_grad and p.numel())
        if not all(bound.isfinite() for p in learning for bound in p.aminmax()):
            raise ModelError(self._diverged("weights became infinite or no numbers in the last step"))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.check_weights()
        super()._save_checkpoint(model, trial)

    def _diverged(self, what: str) -> str:
        precise = "" if self.args.mixed_precision == "no" else ", or set dtype to fp32"
        rate = f"{self.args.learning_rate:g}"
        good = self.last_checkpoint()
        kept = f"; the last good checkpoint is {good}" if good else ""
        return f"training diverged: {what}; lower learning_rate (now {rate}) or add warmup{precise}{kept}"

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The mean loss over all target tokens of the rows held out. (Trainer's own is a mean over batches.)"""
        set_evaluating(self.model)
        total, targets = 0.0, 0
        for batch in self.get_eval_dataloader(eval_dataset):
            total += self._evaluated(batch["rows"])
            targets += target_tokens(batch["rows"])
        metrics = {f"{metric_key_prefix}_loss": total / targets}
        if not math.isfinite(total):
            raise ModelError(self._diverged(f"the evaluation loss became {total} at step {self.state.global_step}"))
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _tokens(rows: Sequence[Row]) -> int:
    return sum(map(length, rows))
