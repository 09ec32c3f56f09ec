"""What both ways of fine-tuning share: the data, the training loop over transformers' Trainer, and its figures.

A training step is `batch_size` x `gradient_accumulation_steps` rows in an order that `seed` decides. Its loss is the
mean over all target tokens of the step, so how the rows are spread over micro-batches changes nothing (without
dropout); a budget of tokens spreads them (see `batches`). For Trainer a step is one batch: it asks for the number of
batches once, and rows would be lost if that changed. A row is a conversation, or one of its turns where the template
rewrites history (see `chat`). Every row comes once in each epoch; the last step of an epoch has what remains.

Numbers: fp32 computes in fp32. bf16 and fp16 compute by autocast, while the weights being trained stay in fp32 (updates
of 1e-5 vanish in 8 bits of mantissa), and fp16 scales its loss. So full fine-tuning takes 16 bytes a parameter in every
dtype; LoRA keeps its frozen base in `dtype`.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import os
import random
import resource
import sys
from collections.abc import Iterator, Sized
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import AutoConfig, PrinterCallback, TrainerControl, TrainingArguments, set_seed
from transformers.utils import is_liger_kernel_available

from pyrust_nn import InputError, ModelError, UsageError
from pyrust_nn.attention import can_pack, packed_attention
from pyrust_nn.batches import MAX_TOKENS, Batches, Layout, Row, length, target_tokens
from pyrust_nn.callbacks import ETACallback, MetricsCallback, ProgressCallback, Session, TrainingMeter
from pyrust_nn.checkpoints import CheckpointTrainer, StopCallback, taken_up
from pyrust_nn.compiling import check_compilable, check_compiler, compiled_layers
from pyrust_nn.evaluation import EvaluationCallback, check_evaluation
from pyrust_nn.layers import fused_layers
from pyrust_nn.loss import TargetLoss
from pyrust_nn.models import model_folder, pick_device, pick_dtype, position_limit
from pyrust_nn.optimizers import OPTIMIZERS, loraplus_optimizer
from pyrust_nn.reports import reporters
from pyrust_nn.rows import IGNORED, Rows, Sample, prepare_rows, row_options

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from pyrust_nn.saving import AnyTokenizer

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
    if (processes := int(os.environ.get("WORLD_SIZE") or 1)) > 1:
        raise UsageError(
            f"this is one of {processes} processes (WORLD_SIZE, as torchrun sets it), and training runs in one alone so far: each of them "
            "would open the session for itself. Start pyrust-nn without a launcher, or unset WORLD_SIZE"
        )
    set_seed(params.seed)
    device = pick_device(params.device)
    dtype = pick_dtype(params.dtype, device)
    if dtype == torch.float16 and device.type != "cuda":
        raise InputError("training in fp16 needs a CUDA device (its loss must be scaled); set dtype to bf16 or fp32")
    if params.compile:
        check_compiler(device)
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
    if params.compile:
        check_compilable(config)
    prepared = prepare_rows(params.model, params.dataset_path, row_options(params), params.eval_split)
    train = Rows(prepared["path"])
    evaluation = Rows(prepared["eval_path"]) if prepared["eval_path"] else None
    if params.eval_dataset_path:
        evaluation = Rows(prepare_rows(params.model, params.eval_dataset_path, row_options(params))["path"])
    logger.info("%d rows to train on, %d to evaluate", len(train), len(evaluation or ()))
    counts = {name: count for name, count in prepared.items() if isinstance(count, int) and name != "cached"}
    return TrainingData(train, evaluation, prepared["digest"], counts | {"eval_rows": len(evaluation or ())})


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


def collate(rows: list[Sample]) -> dict[str, list[Sample]]:
    """A step's rows as they are; `training_step` cuts them into micro-batches."""
    return {"rows": rows}


def pick_batches(params: SimpleNamespace, config: PretrainedConfig, device: torch.device) -> Batches:
    """How a step's rows are cut. Raises InputError where packing is asked for and would change what is learned."""
    obstacle = None
    if not can_pack(config):
        obstacle = "some layers of this model are recurrent and would carry one row's state into the next"
    elif params.neftune_alpha:
        obstacle = "neftune_alpha scales its noise by the length of a row"
    if params.packing == "on" and obstacle:
        raise InputError(f"packing cannot be on: {obstacle}; set it to auto")
    layout = Layout.PACKED
    if obstacle or params.packing == "off":
        # On a GPU many rows must go together, and sorted rows have little padding; a CPU is busy with one.
        layout = Layout.EQUAL if device.type == "cpu" else Layout.PADDED
    return Batches(layout, params.max_tokens_per_batch or MAX_TOKENS.get(device.type, MAX_TOKENS["cuda"]))


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
            self.optimizer: torch.optim.Optimizer | None = loraplus_optimizer(self.model, self.args, self.loraplus_ratio)
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
            # The model adds the whole loss of its router; a part of a step has a part of it.
            share = (inputs["labels"][:, 1:] != IGNORED).sum() / num_items_in_batch
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
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        step_loss = float(loss)
        if not math.isfinite(step_loss):
            raise ModelError(self._diverged(f"the loss became {step_loss} at step {self.state.global_step + 1}"))
        self.meter.tokens += sum(map(length, rows))
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
        largest = max(parts, key=lambda part: sum(map(length, part)))
        if len(largest) > 1:
            self.batches = replace(self.batches, max_tokens=max(1, sum(map(length, largest)) // 2))
            logger.warning("memory ran out: micro-batches have %d tokens at most from here on", self.batches.max_tokens)
        elif not self.args.activation_checkpointing:
            self.args.activation_checkpointing = True
            self.target_loss.base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            logger.warning("memory ran out: gradient checkpointing is on from here on, which takes time")
        else:
            raise ModelError(
                f"the memory of {self.args.device} is too small to train on a row of {length(largest[0])} tokens; lower max_length "
                "(and set overlong), or take a smaller model, optimizer adamw_8bit, or LoRA with load_in_4bit"
            ) from cause

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
        self.model.eval()
        for module in self.model.modules():
            # bitsandbytes would pack these for inference on a CPU, and they have no dropout.
            module.training = type(module).__name__ == "Linear4bit"
        total, targets = 0.0, 0
        for batch in self.get_eval_dataloader(eval_dataset):
            for part in self.batches.cut(batch["rows"]):
                count = target_tokens(part)
                inputs = self._prepare_inputs(self.batches.inputs(part))
                with torch.no_grad(), self.compute_loss_context_manager():
                    total += float(self.compute_loss(self.model, inputs, num_items_in_batch=count)) * count
                targets += count
        metrics = {f"{metric_key_prefix}_loss": total / targets}
        if not math.isfinite(total):
            raise ModelError(self._diverged(f"the evaluation loss became {total} at step {self.state.global_step}"))
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def train(
    model: Any,
    tokenizer: AnyTokenizer,
    data: TrainingData,
    params: SimpleNamespace,
    session: Session,
    *,
    device: torch.device,
    dtype: torch.dtype,
    checkpoint: Path | None = None,
    loraplus_ratio: float | None = None,
) -> dict[str, float]:
    """Train the trainable weights of `model` in place, from a `checkpoint` on where one is given, and return the step's metrics.

    `loraplus_ratio` is for adapters alone (see `optimizers`).

    metrics.jsonl and the progress bar go to `session`; with `save_steps`, checkpoints to <step>/checkpoints. With
    `load_best_model_at_end` the weights are those of the lowest evaluation loss. Of the
    metrics, losses are per target token (train_loss: mean of all steps; first_loss, last_loss: of one step), rates are
    of training steps alone, and the counts of data include the `eval_rows`.
    Raises ModelError if the loss or the weights stop being numbers.
    """
    meter, eta, stop = TrainingMeter(), ETACallback(), StopCallback()
    batches = pick_batches(params, model.config, device)
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
        batches=batches,
        loraplus_ratio=loraplus_ratio,
        args=training_arguments(params, session, device, dtype, eval_steps=eval_steps, saves=saves),
        data_collator=collate,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        callbacks=[
            eta,
            ProgressCallback(session, eta, meter),
            MetricsCallback(session, eta, meter, lambda: peak_memory_bytes(device)),
            stop,
            *reporters(params.report_to or [], session),
        ],
    )
    trainer.remove_callback(PrinterCallback)  # stands in for the progress bar that is turned off, and prints dicts
    own_memory(model)
    packed = packed_attention(model, dtype) if batches.layout is Layout.PACKED else nullcontext()
    give_back_memory()
    alone = device.type == "cpu" and trainer.args.world_size == 1
    layers: AbstractContextManager[None] = nullcontext()
    if params.compile:
        layers = compiled_layers(model, checkpointing=params.gradient_checkpointing)
    elif alone:
        layers = fused_layers(model)
    with packed, layers, stop.listening() if saves else nullcontext(), taken_up(trainer, checkpoint, Path(session.step_folder)):
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
        per_device_train_batch_size=params.batch_size * params.gradient_accumulation_steps,
        per_device_eval_batch_size=params.batch_size * params.gradient_accumulation_steps,
        optim=OPTIMIZERS[params.optimizer],
        learning_rate=params.learning_rate,
        lr_scheduler_type=scheduler,
        warmup_steps=params.warmup,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        seed=params.seed,
        neftune_noise_alpha=params.neftune_alpha,
        activation_checkpointing=params.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        use_liger_kernel=device.type == "cuda" and is_liger_kernel_available(),
        # Its fused loss would take the head's place, which `loss` has.
        liger_kernel_config={"fused_linear_cross_entropy": False, "cross_entropy": False},
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
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # nn.DataParallel would split what is not a tensor
    return arguments


def own_memory(model: torch.nn.Module) -> None:
    """Take what learns out of the mapped file, whose pages the first optimizer step would have copied one by one, in six times the time."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def give_back_memory() -> None:
    """Have the system take back what loading and preparing have freed: glibc would keep it beside what training takes."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: torch's on a CUDA device (since training began), else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _packed(parameter: torch.Tensor) -> int:
    """How many weights an element of a quantized parameter holds."""
    return 2 * parameter.element_size() if parameter.__class__.__name__ == "Params4bit" else 1
