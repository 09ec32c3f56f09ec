"""transformers' Trainer with our order of rows, exact losses and complete checkpoints.

For Trainer a training step is one batch: it reads the number of batches once, and rows would be lost if that changed.
`training_step` divides the rows of the step into micro-batches (see `batches`).

If memory runs out, the step restarts with smaller micro-batches.
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
from pyrust_nn.training.batches import MicroBatching, row_length, target_tokens
from pyrust_nn.training.callbacks import TrainingMeter
from pyrust_nn.training.checkpoints import CheckpointTrainer
from pyrust_nn.training.evaluation import EvaluationCallback, set_eval_mode
from pyrust_nn.training.memory import out_of_memory_error, release_memory
from pyrust_nn.training.optimizers import loraplus_optimizer
from pyrust_nn.training.rows import IGNORED, Row
from pyrust_nn.training.session import TrainingSession
from pyrust_nn.training.target_loss import TargetLoss

if TYPE_CHECKING:
    from pyrust_nn.models.tokenizers import AnyTokenizer

logger = logging.getLogger(__name__)


class EpochSampler(Sampler[int]):
    """Every row once per epoch, in an order that depends only on the seed and the number of the epoch."""

    def __init__(self, rows: Sized, seed: int) -> None:
        """`rows` is anything with a length."""
        self.count, self.seed, self.epoch = len(rows), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch; the first is 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of rows."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """The order of the epoch."""
        order = list(range(self.count))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        return iter(order)


def collate_rows(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of a step, unchanged; `training_step` divides them into micro-batches."""
    return {"rows": rows}


class ConversationTrainer(CheckpointTrainer):
    """transformers' Trainer with our order of rows, exact losses and complete checkpoints."""

    def __init__(
        self,
        *,
        tokenizer: AnyTokenizer,
        meter: TrainingMeter,
        session: TrainingSession,
        evaluation: EvaluationCallback,
        batching: MicroBatching,
        loraplus_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        """`kwargs` are Trainer's own; `batching` divides the rows of a step."""
        # Trainer disables the cache for training; the saved configuration must not.
        self.use_cache = kwargs["model"].config.use_cache
        super().__init__(**kwargs)
        # Not as Trainer's processing_class, which would reduce the stop tokens of the generation config to one.
        self.tokenizer = tokenizer
        self.meter = meter
        self.session, self.evaluation = session, evaluation
        self.add_callback(evaluation)
        self.batching = batching
        self.loraplus_ratio = loraplus_ratio
        # On a CPU the loss is not scaled (fp16 is refused there), and a single process has no gradient hooks.
        in_place = self.args.device.type == "cpu" and self.args.world_size == 1
        self.target_loss = TargetLoss(self.model, in_place=in_place)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return EpochSampler(self.train_dataset if train_dataset is None else train_dataset, self.args.seed)

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **_: Any) -> DataLoader[Any]:
        # Trainer's version imports `datasets` to check whether the rows are of that package.
        sampler = sampler_fn(dataset) if sampler_fn is not None else None
        pinned = self.args.dataloader_pin_memory
        loader = DataLoader(dataset, batch_size, sampler=sampler, collate_fn=self.data_collator, pin_memory=pinned)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer would visit all parameters for every micro-batch."""
        return 0

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Trainer's (no norms, no biases) without weights of one dimension, such as DoRA's magnitudes and `A_log`."""
        names: list[str] = super().get_decay_parameter_names(model)
        if not self.args.weight_decay:
            return names  # it makes no difference, and checkpoints of earlier builds have these groups
        flat = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
        return [name for name in names if name not in flat]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's optimizer, or LoRA+."""
        if self.loraplus_ratio and self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer: torch.optim.Optimizer | None = loraplus_optimizer(
                self.model, kind, options, ratio=self.loraplus_ratio, weight_decay=self.args.weight_decay
            )
        return super().create_optimizer(model)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, list[Row]]], device: torch.device) -> torch.Tensor:
        count = torch.tensor(sum(target_tokens(batch["rows"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The sum of a micro-batch's token losses, divided by `num_items_in_batch`, the target tokens of the whole step."""
        with self.target_loss:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if num_items_in_batch is not None and not (self.target_loss.usable or self.model_accepts_loss_kwargs):
            # The model's loss is a mean over the micro-batch.
            loss = loss * ((inputs["labels"][:, 1:] != IGNORED).sum() / num_items_in_batch)
        if num_items_in_batch is not None and getattr(outputs, "aux_loss", None) is not None:
            # The model adds its router's whole loss. A micro-batch counts its share of it, an evaluation none.
            share = (inputs["labels"][:, 1:] != IGNORED).sum() / num_items_in_batch if torch.is_grad_enabled() else 0
            loss = loss - (1 - share) * self.target_loss.base.router_aux_loss_coef * outputs.aux_loss
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, list[Row]], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of a whole step. Raises ModelError before the optimizer step if the loss is infinite or NaN."""
        rows = inputs["rows"]
        model.train()
        while (loss := self._forward_backward(model, rows, num_items_in_batch)) is None:
            model.zero_grad()
            release_memory()
        step_loss = float(loss)
        if not math.isfinite(step_loss):
            raise ModelError(self._divergence(f"the loss became {step_loss} at step {self.state.global_step + 1}"))
        self.meter.tokens += _tokens(rows)
        self.meter.target_tokens += target_tokens(rows)
        self.meter.record_loss(step_loss)
        return loss

    def _forward_backward(self, model: torch.nn.Module, rows: list[Row], targets: Any) -> torch.Tensor | None:
        """The step's loss, with its gradients in the weights; None if memory ran out and the step must restart with smaller parts."""
        total = torch.zeros((), device=self.args.device)
        parts = self.batching.split(rows)
        try:
            for number, part in enumerate(parts, 1):
                # Only the last part's gradients are exchanged between processes.
                with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                    inputs = self._prepare_inputs(self.batching.inputs(part))
                    with self.compute_loss_context_manager():
                        loss = self.compute_loss(model, inputs, num_items_in_batch=targets)
                    self.accelerator.backward(loss)
                    total += loss.detach()
        except torch.OutOfMemoryError as cause:
            if self.args.world_size > 1:
                raise  # the other processes are in the middle of their step
            self._reduce_memory(parts, cause)
            return None
        return total

    def _reduce_memory(self, parts: list[list[Row]], cause: torch.OutOfMemoryError) -> None:
        largest = max(parts, key=_tokens)
        if len(largest) > 1:
            self._halve_micro_batches(parts)
        elif not self.args.activation_checkpointing:
            self.args.activation_checkpointing = True
            self.target_loss.base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            logger.warning("memory ran out: gradient checkpointing is turned on, which makes training slower")
        else:
            raise out_of_memory_error(self.args.device, f"to train on a row of {row_length(largest[0])} tokens") from cause

    def _halve_micro_batches(self, parts: list[list[Row]]) -> None:
        self.batching = replace(self.batching, max_tokens=max(1, max(map(_tokens, parts)) // 2))
        logger.warning("memory ran out: micro-batches are limited to %d tokens", self.batching.max_tokens)

    def _loss_sum(self, rows: list[Row]) -> float:
        """The sum of the losses of these rows' target tokens. If memory runs out, fewer rows are computed at once."""
        total = 0.0
        parts = self.batching.split(rows)
        try:
            for part in parts:
                count = target_tokens(part)
                inputs = self._prepare_inputs(self.batching.inputs(part))
                with torch.no_grad(), self.compute_loss_context_manager():
                    total += float(self.compute_loss(self.model, inputs, num_items_in_batch=count)) * count
            return total
        except torch.OutOfMemoryError:
            if len(parts) == len(rows):
                raise
            self._halve_micro_batches(parts)
        release_memory()
        return self._loss_sum(rows)

    def check_weights(self) -> None:
        """Raise ModelError if a weight is infinite or NaN after the last optimizer step, which no later loss would show."""
        # Minimum and maximum show both; isfinite would allocate a second matrix of the vocabulary's size.
        trained = (p.detach() for p in self.model.parameters() if p.requires_grad and p.numel())
        if not all(bound.isfinite() for p in trained for bound in p.aminmax()):
            raise ModelError(self._divergence("weights became infinite or NaN in the last step"))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.check_weights()
        super()._save_checkpoint(model, trial)

    def _divergence(self, what: str) -> str:
        precision = "" if self.args.mixed_precision == "no" else ", or set dtype to fp32"
        rate = f"{self.args.learning_rate:g}"
        good = self.last_checkpoint()
        kept = f"; the last good checkpoint is {good}" if good else ""
        return f"training diverged: {what}; lower learning_rate (now {rate}) or add warmup{precision}{kept}"

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The mean loss over all target tokens of the evaluation rows. (Trainer's own is a mean over batches.)"""
        set_eval_mode(self.model)
        total, targets = 0.0, 0
        for batch in self.get_eval_dataloader(eval_dataset):
            total += self._loss_sum(batch["rows"])
            targets += target_tokens(batch["rows"])
        metrics = {f"{metric_key_prefix}_loss": total / targets}
        if not math.isfinite(total):
            raise ModelError(self._divergence(f"the evaluation loss became {total} at step {self.state.global_step}"))
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _tokens(rows: Sequence[Row]) -> int:
    return sum(map(row_length, rows))
