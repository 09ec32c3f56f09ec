"""What both ways of fine-tuning share: the data, the training loop over transformers' Trainer, and its figures.

A training step is `batch_size` x `gradient_accumulation_steps` rows in an order that `seed` decides. Its loss is the
mean over all target tokens of the step, so how the rows are spread over micro-batches changes nothing (without
dropout). A row is a conversation, or one of its turns where the template rewrites history (see `chat`). Every row comes
once in each epoch; the last step of an epoch has what remains.

Numbers: fp32 computes in fp32. bf16 and fp16 compute by autocast, while the weights being trained stay in fp32 (updates
of 1e-5 vanish in 8 bits of mantissa), and fp16 scales its loss. So full fine-tuning takes 16 bytes a parameter in every
dtype; LoRA keeps its frozen base in `dtype`.
"""

from __future__ import annotations

import gc
import logging
import math
import random
import resource
import sys
from collections.abc import Iterator, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler
from transformers import AutoConfig, PrinterCallback, TrainerControl, TrainingArguments, set_seed

from pyrust_nn import InputError, ModelError, _core
from pyrust_nn.callbacks import ETACallback, MetricsCallback, ProgressCallback, Session, TrainingMeter
from pyrust_nn.checkpoints import CheckpointTrainer, StopCallback, taken_up
from pyrust_nn.evaluation import EvaluationCallback, check_evaluation
from pyrust_nn.models import model_folder, pick_device, pick_dtype, position_limit
from pyrust_nn.rows import IGNORED, Rows, Sample, prepare_rows

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class TrainingData:
    """The rows to train on, those held out for evaluation, and the counts of `prepare_dataset`."""

    train: Rows
    evaluation: Rows | None
    digest: str  # of the data set's files
    counts: dict[str, int]


def prepare(params: SimpleNamespace) -> tuple[torch.device, torch.dtype]:
    """Seed every random generator; the device and the dtype to compute in."""
    set_seed(params.seed)
    device = pick_device(params.device)
    dtype = pick_dtype(params.dtype, device)
    if dtype == torch.float16 and device.type != "cuda":
        raise InputError("training in fp16 needs a CUDA device (its loss must be scaled); set dtype to bf16 or fp32")
    return device, dtype


def load_data(params: SimpleNamespace, config: PretrainedConfig) -> TrainingData:
    """Prepare the data set, or find it prepared. `config` is the model's: no sample may exceed its positions."""
    positions = position_limit(config)
    if positions is not None and params.max_length > positions:
        raise InputError(
            f"max_length {params.max_length} is beyond the {positions} positions (max_position_embeddings) of "
            f"{params.model}; set max_length to {positions} or less"
        )
    check_evaluation(params)
    prepared = prepare_rows(params.model, params.dataset_path, vars(params), params.eval_split)
    train = Rows(prepared["path"])
    evaluation = Rows(prepared["eval_path"]) if prepared["eval_path"] else None
    if params.eval_dataset_path:
        evaluation = Rows(prepare_rows(params.model, params.eval_dataset_path, vars(params))["path"])
    logger.info("%d rows to train on, %d to evaluate", len(train), len(evaluation or ()))
    places = ("path", "eval_path", "cached", "digest")
    return TrainingData(train, evaluation, prepared["digest"], {name: count for name, count in prepared.items() if name not in places})


def model_config(model: str) -> PretrainedConfig:
    """The configuration of a model, read without its weights."""
    return AutoConfig.from_pretrained(model_folder(model), local_files_only=True, trust_remote_code=False)


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


def collate(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """A batch, padded on the right: `input_ids`, `labels` and `attention_mask`, int64 [samples, longest]."""
    shape = (len(samples), max(len(sample.input_ids) for sample in samples))
    # What stands in the padding does not matter: it is masked, and nothing before it looks ahead.
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
    }
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        batch["input_ids"][row, :length] = torch.from_numpy(sample.input_ids.astype("int64"))
        batch["labels"][row, :length] = torch.from_numpy(sample.labels.astype("int64"))
        batch["attention_mask"][row, :length] = 1
    return batch


def target_count(labels: torch.Tensor) -> torch.Tensor:
    """How many labels of [rows, length] are predicted, as a scalar tensor on their device."""
    return (labels[:, 1:] != IGNORED).sum()


class ConversationTrainer(CheckpointTrainer):
    """transformers' Trainer with our order of rows, exact losses, and whole checkpoints."""

    def __init__(
        self, *, tokenizer: PreTrainedTokenizerFast, meter: TrainingMeter, session: Session, evaluation: EvaluationCallback, **kwargs: Any
    ) -> None:
        """`kwargs` are Trainer's own."""
        # Trainer turns the cache off for training; what is saved must not keep that.
        self.use_cache = kwargs["model"].config.use_cache
        super().__init__(**kwargs)
        # Not as Trainer's processing_class, which would replace the generation config's stop set by one token.
        self.tokenizer = tokenizer
        self.meter = meter
        self.session, self.evaluation = session, evaluation
        self.add_callback(evaluation)
        self._step_sums = torch.zeros(3, dtype=torch.float64)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return EpochSampler(self.train_dataset if train_dataset is None else train_dataset, self.args.seed)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer would walk over all parameters for every micro-batch."""
        return 0

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Forward and backward of a micro-batch; stops before an optimizer step whose loss is no number."""
        counts = inputs["attention_mask"].sum(), target_count(inputs["labels"])
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_sums = self._step_sums.to(loss.device) + torch.stack((*counts, loss.detach())).double()
        if self.accelerator.sync_gradients:
            tokens, targets, step_loss = self._step_sums.tolist()
            self._step_sums.zero_()
            if not math.isfinite(step_loss):
                raise ModelError(self._diverged(f"the loss became {step_loss} at step {self.state.global_step + 1}"))
            self.meter.tokens += int(tokens)
            self.meter.target_tokens += int(targets)
            self.meter.record_loss(step_loss)
        return loss

    def check_weights(self) -> None:
        """Raise ModelError if the last optimizer step broke a weight: no later loss would show it."""
        if not all(p.isfinite().all() for p in self.model.parameters() if p.requires_grad):
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
        self.model.eval()
        total, targets = 0.0, 0
        for batch in self.get_eval_dataloader(eval_dataset):
            inputs = self._prepare_inputs(batch)
            count = target_count(inputs["labels"])
            with torch.no_grad(), self.compute_loss_context_manager():
                total += float(self.compute_loss(self.model, inputs, num_items_in_batch=count) * count)
            targets += int(count)
        metrics = {f"{metric_key_prefix}_loss": total / targets}
        if not math.isfinite(total):
            raise ModelError(self._diverged(f"the evaluation loss became {total} at step {self.state.global_step}"))
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    data: TrainingData,
    params: SimpleNamespace,
    session: Session,
    *,
    device: torch.device,
    dtype: torch.dtype,
    checkpoint: Path | None = None,
) -> dict[str, float]:
    """Train the trainable weights of `model` in place, from a `checkpoint` on where one is given, and return the step's metrics.

    metrics.jsonl and the progress bar go to `session`; with `save_steps`, checkpoints to <step>/checkpoints. With
    `load_best_model_at_end` the weights are those of the lowest evaluation loss. Of the
    metrics, losses are per target token (train_loss: mean of all steps; first_loss, last_loss: of one step), rates are
    of training steps alone, and the counts of data include the `eval_rows`.
    Raises ModelError if the loss or the weights stop being numbers.
    """
    meter, eta, stop = TrainingMeter(), ETACallback(), StopCallback()
    saves = bool(params.save_steps or params.load_best_model_at_end)
    steps_per_epoch = math.ceil(len(data.train) / (params.batch_size * params.gradient_accumulation_steps))
    eval_steps = (params.eval_steps or steps_per_epoch) if data.evaluation else 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = ConversationTrainer(
        model=model,
        tokenizer=tokenizer,
        meter=meter,
        session=session,
        evaluation=EvaluationCallback(patience=params.early_stopping_patience, saves=saves),
        args=training_arguments(params, session, device, dtype, eval_steps=eval_steps, saves=saves),
        data_collator=collate,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        callbacks=[
            eta,
            ProgressCallback(session, eta, meter),
            MetricsCallback(session, eta, meter, lambda: peak_memory_bytes(device)),
            stop,
        ],
    )
    trainer.remove_callback(PrinterCallback)  # stands in for the progress bar that is turned off, and prints dicts
    with stop.listening() if saves else nullcontext(), taken_up(trainer, checkpoint, Path(session.step_folder)):
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_weights()
    last_evaluation = next((log["eval_loss"] for log in reversed(trainer.state.log_history) if "eval_loss" in log), None)
    if params.load_best_model_at_end:
        trainer.load_best()
        last_evaluation = trainer.state.best_metric
    model.config.use_cache = trainer.use_cache

    sizes = [(p.numel() * _packed(p), p.requires_grad) for p in model.parameters()]
    metrics = {
        "train_loss": result.training_loss,
        "first_loss": meter.first_loss,
        "last_loss": meter.last_loss,
        "eval_loss": last_evaluation,
        "best_eval_loss": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step if saves else None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        **data.counts,
        "trainable_parameters": sum(size for size, trainable in sizes if trainable),
        "all_parameters": sum(size for size, _ in sizes),
        # None where the checkpoint that was resumed had no step left.
        "tokens_per_second": meter.tokens / eta.training_seconds if eta.training_seconds else None,
        "target_tokens_per_second": meter.target_tokens / eta.training_seconds if eta.training_seconds else None,
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    # One process runs many steps: give back what this one held.
    del trainer
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {name: value for name, value in metrics.items() if value is not None}


def training_arguments(
    params: SimpleNamespace, session: Any, device: torch.device, dtype: torch.dtype, *, eval_steps: int, saves: bool
) -> TrainingArguments:
    """Trainer's arguments: ours under its names, and everything it would do besides turned off."""
    scheduler = "constant_with_warmup" if params.scheduler == "constant" and params.warmup else params.scheduler
    folder = Path(session.step_folder)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints" if saves else folder),
        num_train_epochs=params.num_epochs,
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=params.batch_size,
        gradient_accumulation_steps=params.gradient_accumulation_steps,
        learning_rate=params.learning_rate,
        lr_scheduler_type=scheduler,
        warmup_steps=params.warmup,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        seed=params.seed,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        # By steps also for each epoch: at an epoch's end Trainer would evaluate after the checkpoint, and a resumed training not at all.
        eval_strategy="steps" if eval_steps else "no",
        eval_steps=eval_steps or None,
        metric_for_best_model="eval_loss" if eval_steps else None,
        greater_is_better=False if eval_steps else None,
        save_strategy="steps" if saves else "no",
        save_steps=params.save_steps or 10**9,
        save_total_limit=params.save_total_limit or None,
        logging_steps=params.logging_steps,
        logging_nan_inf_filter=False,
        label_names=["labels"],
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    if device.type == "cuda" and device.index is not None:
        # Trainer knows only the first GPU, or all of them; the cached property is where it looks.
        arguments.__dict__["_setup_devices"] = device
        arguments._n_gpu = 1
        torch.cuda.set_device(device)
    return arguments


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: torch's on a CUDA device (since training began), else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _packed(parameter: torch.Tensor) -> int:
    """How many weights an element of a quantized parameter holds."""
    return 2 * parameter.element_size() if parameter.__class__.__name__ == "Params4bit" else 1
