"""The training loop that full fine-tuning and LoRA share, and its metrics.

A training step is `batch_size` x `gradient_accumulation_steps` rows, in an order that `seed` decides. Its loss is the mean
over all target tokens of the step, so the result does not depend on how the rows are divided into micro-batches (without
dropout); `batches` divides them by a budget of tokens. The exception is the router's loss of a mixture of experts: it is not a
sum over tokens, so each micro-batch has its own, weighted by its share of the target tokens. A row is a conversation, or one of
its turns if the chat template rewrites earlier messages (see `chat.renderer`). Every row occurs once in each epoch; the last step
of an epoch has the rest.

Precision: fp32 computes in fp32. bf16 and fp16 compute by autocast, while the trained weights stay in fp32 (updates of
1e-5 vanish in 8 bits of mantissa); fp16 scales its loss. So full fine-tuning takes 16 bytes per parameter in every dtype, and 2
more in bf16 and fp16 for the copies that autocast keeps during a micro-batch. LoRA keeps its frozen base in `dtype`.

Callbacks are transformers' TrainerCallbacks, with its events, TrainerState and TrainerControl; `args` are `LoopArguments`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, get_scheduler, set_seed
from transformers.trainer_utils import speed_metrics

from pyrust_nn import InputError, ModelError
from pyrust_nn._runtime.ranks import Ranks
from pyrust_nn.cpu.packed_attention import packed_attention
from pyrust_nn.cpu.patching import patched_layers
from pyrust_nn.cuda.liger import apply_liger, restored_globals
from pyrust_nn.models.saving import save_model
from pyrust_nn.training.arguments import LoopArguments, loop_arguments
from pyrust_nn.training.batches import BatchLayout, row_length, target_tokens
from pyrust_nn.training.callbacks import ETACallback, MetricsCallback, ProgressCallback, TrainingMeter
from pyrust_nn.training.checkpoints import STATE_FILE, Checkpoints, load_states, load_weights, save_states
from pyrust_nn.training.compiling import compiled_layers
from pyrust_nn.training.evaluation import EvaluationCallback, set_eval_mode
from pyrust_nn.training.loss_reading import LossReader
from pyrust_nn.training.memory import out_of_memory_error, peak_memory_bytes, release_memory, trim_heap, unmap_trainable
from pyrust_nn.training.neftune import noisy_embeddings
from pyrust_nn.training.optimizers import make_optimizer
from pyrust_nn.training.order import epoch_order
from pyrust_nn.training.overview import log_overview, parameter_counts
from pyrust_nn.training.packing import choose_batching
from pyrust_nn.training.random_states import get_random_states, load_random_states
from pyrust_nn.training.resuming import resumed, write_resume_file
from pyrust_nn.training.rows import Row
from pyrust_nn.training.session import TrainingSession
from pyrust_nn.training.setting_warnings import warn_about_settings
from pyrust_nn.training.setup import TrainingData
from pyrust_nn.training.step_loss import StepLoss, enable_checkpointing
from pyrust_nn.training.stopping import StopCallback, synchronize
from pyrust_nn.training.trackers import report_callbacks

if TYPE_CHECKING:
    from pyrust_nn.models.tokenizers import AnyTokenizer

logger = logging.getLogger(__name__)

MAX_SKIPPED = 25
"""Steps in a row whose fp16 gradients overflow. A scaler begins at 65,536 and halves each time, so 16 of them are nothing unusual."""


def train(
    model: Any,
    tokenizer: AnyTokenizer,
    data: TrainingData,
    params: SimpleNamespace,
    session: TrainingSession,
    *,
    device: torch.device,
    dtype: torch.dtype,
    checkpoint: Path | None = None,
    loraplus_ratio: float | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """Train the trainable weights of `model` in place and return the step's metrics.

    `checkpoint`: resume from this folder. `loraplus_ratio` is for adapters only (see `optimizers`). `callbacks` are called
    after this package's own.

    metrics.jsonl and the progress bar go to `session`; with `save_steps`, checkpoints to <step>/checkpoints. With
    `load_best_model_at_end` the model ends with the weights of the lowest evaluation loss. Among the metrics, losses are
    per target token (train_loss: mean of all steps; first_loss, last_loss: of one step), rates are of training steps only
    (without evaluation and saving), and the data counts include the `eval_rows`. `stopped_early` is there only if it is true.

    Raises ModelError if the loss or the weights become infinite or NaN, or if memory runs out.
    """
    ranks = session.ranks
    set_seed(ranks.seed(params.seed))
    meter, eta, stop = TrainingMeter(), ETACallback(), StopCallback(ranks)
    batching = choose_batching(params, model.config, device)
    saves = bool(params.save_steps or params.load_best_model_at_end)
    steps_per_epoch = math.ceil(len(data.train) / (params.batch_size * params.gradient_accumulation_steps))
    warn_about_settings(model, params, math.ceil(steps_per_epoch * params.num_epochs))
    eval_steps = (params.eval_steps or steps_per_epoch) if data.evaluation else 0
    args = loop_arguments(params, session, dtype, eval_steps=eval_steps, saves=saves)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)
    if not getattr(model, "is_quantized", False):
        model.to(device)
    log_overview(params, model, data, device=device, dtype=dtype, resumed=checkpoint is not None)
    unmap_trainable(model)
    ranks.broadcast(parameter for parameter in model.parameters() if parameter.requires_grad)
    packed = packed_attention(model, dtype) if batching.layout is BatchLayout.PACKED else nullcontext()
    trim_heap()
    layers: AbstractContextManager[None] = patched_layers(model)
    if params.compile:
        layers = compiled_layers(model, checkpointing=params.gradient_checkpointing)
    with (
        report_callbacks((params.report_to or []) if ranks.first else [], session) as reports,
        packed,
        layers,
        restored_globals(model),
        stop.handling_signals() if saves else nullcontext(),
        resumed(checkpoint, session.step_folder, args.mixed_precision, ranks) as resume_state,
        noisy_embeddings(model, args.neftune_noise_alpha),
    ):
        if device.type == "cuda" and not params.compile:  # torch.compile makes such kernels itself, and fails on these
            apply_liger(model)
        if params.gradient_checkpointing:
            enable_checkpointing(model)
        evaluation = EvaluationCallback(patience=params.early_stopping_patience, saves=saves)
        bar = ProgressCallback(session, eta, meter)
        metrics_file = MetricsCallback(session, eta, meter, lambda: peak_memory_bytes(device))
        try:
            loop = TrainingLoop(
                model,
                tokenizer,
                data,
                args,
                StepLoss(model, batching, device, dtype, may_checkpoint=not (params.gradient_checkpointing or params.compile)),
                Checkpoints(args.output_dir, session, every=args.save_steps, limit=args.save_total_limit),
                meter=meter,
                evaluation=evaluation,
                callbacks=[eta, bar, metrics_file, stop, evaluation, *callbacks, *reports],
                loraplus_ratio=loraplus_ratio,
                ranks=ranks,
            )
            if checkpoint and resume_state:
                loop.restore(checkpoint, resume_state)
            train_loss = loop.run()
        except torch.OutOfMemoryError as cause:
            raise out_of_memory_error(device, "for this training") from cause
    loop.check_weights()
    state = loop.state
    last_evaluation = next((log["eval_loss"] for log in reversed(state.log_history) if "eval_loss" in log), None)
    if params.load_best_model_at_end:
        loop.load_best()
        last_evaluation = state.best_metric

    trained_parameters, all_parameters = parameter_counts(model)
    metrics = {
        "train_loss": train_loss,
        "first_loss": meter.first_loss,
        "last_loss": meter.last_loss,
        "eval_loss": last_evaluation,
        "best_eval_loss": state.best_metric,
        "best_step": state.best_global_step if saves else None,
        "stopped_early": (evaluation.patience_exhausted and state.global_step < state.max_steps) or None,
        "steps": state.global_step,
        "epochs": state.epoch,
        **data.counts,
        "trainable_parameters": trained_parameters,
        "all_parameters": all_parameters,
        # None if the checkpoint resumed from had no step left.
        "tokens_per_second": meter.tokens / eta.training_seconds if eta.training_seconds else None,
        "target_tokens_per_second": meter.target_tokens / eta.training_seconds if eta.training_seconds else None,
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    # A process runs many steps, so this step's memory is released.
    del loop
    release_memory()
    return {name: value for name, value in metrics.items() if value is not None}


class TrainingLoop:
    """Epochs of training steps, each with the logging, the evaluation and the checkpoint that are due after it."""

    def __init__(
        self,
        model: Any,
        tokenizer: AnyTokenizer,
        data: TrainingData,
        args: LoopArguments,
        step_loss: StepLoss,
        checkpoints: Checkpoints,
        *,
        meter: TrainingMeter,
        evaluation: EvaluationCallback,
        callbacks: Sequence[TrainerCallback],
        loraplus_ratio: float | None = None,
        ranks: Ranks,
    ) -> None:
        """`callbacks` are called in this order; `evaluation` is one of them."""
        self.ranks = ranks
        self.model, self.tokenizer, self.data, self.args = model, tokenizer, data, args
        self.step_loss, self.checkpoints = step_loss, checkpoints
        self.meter, self.evaluation, self.callbacks = meter, evaluation, callbacks
        self.steps_per_epoch = math.ceil(len(data.train) / args.rows_per_step)
        steps = math.ceil(args.num_train_epochs * self.steps_per_epoch)
        self.optimizer = make_optimizer(model, args, loraplus_ratio)
        warmup = args.warmup(steps)
        self.scheduler = get_scheduler(args.lr_scheduler_type, self.optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        self.scaler = torch.amp.GradScaler(step_loss.device.type, enabled=args.mixed_precision == "fp16")
        self.control = TrainerControl()
        self.state = TrainerState(
            max_steps=steps,
            num_train_epochs=math.ceil(args.num_train_epochs),
            logging_steps=args.logging_steps,
            eval_steps=args.eval_steps or TrainerState.eval_steps,
            save_steps=args.save_steps,
            train_batch_size=args.per_device_train_batch_size,
        )
        self.loss_since_logged = torch.zeros((), device=step_loss.device)  # sum over steps
        self.loss_logged = 0.0  # the same of the steps before
        self.logged_at = 0
        self.losses = LossReader(meter.record_loss, lambda what: ModelError(self.divergence(what)))
        self.grad_norm, self.learning_rate = torch.zeros(()), 0.0  # of the last step
        self.loss_scale = self.scaler.get_scale()
        self.skipped = 0  # steps in a row without a change, since fp16 gradients overflowed
        self.resumed_from: Path | None = None

    def run(self) -> float:
        """Train to the end. Returns the mean loss of all steps, those before a resume included."""
        started, first_step, rows_before = time.time(), self.state.global_step, self.meter.rows
        self.model.zero_grad()
        self.notify("on_train_begin", should_training_stop=False)
        first_epoch, done = divmod(first_step, self.steps_per_epoch)
        if self.resumed_from and not done:
            load_random_states(self.resumed_from, self.ranks, self.args.seed)
        for epoch in range(first_epoch, self.state.num_train_epochs):
            # A checkpoint may be of the last step.
            if self.state.global_step >= self.state.max_steps or self.evaluation.patience_exhausted or self.control.should_training_stop:
                break
            self.notify("on_epoch_begin", should_epoch_stop=False)
            for at, rows in self.steps(epoch, done if epoch == first_epoch else 0):
                self.notify("on_step_begin", should_log=False, should_evaluate=False, should_save=False)
                self.train_step(rows)
                self.state.global_step += 1
                self.state.epoch = epoch + (at + 1) / self.steps_per_epoch
                self.decide()
                self.notify("on_step_end")
                self.log_evaluate_save()
                if self.control.should_epoch_stop or self.control.should_training_stop:
                    break
            self.notify("on_epoch_end")
            self.log_evaluate_save()
        self.losses.finish()
        if self.ranks.first:
            self.checkpoints.prune_at_end(self.state.best_global_step)
        train_loss = (self.loss_logged + self.loss_since_logged.item()) / max(1, self.state.global_step)
        steps, trained = self.state.global_step - first_step, self.meter.rows - rows_before
        self.log(speed_metrics("train", started, num_samples=trained, num_steps=steps) | {"train_loss": train_loss})
        self.notify("on_train_end")
        return train_loss

    def steps(self, epoch: int, done: int) -> Iterator[tuple[int, list[Row]]]:
        """The steps of an epoch after the first `done`: the number of each (from 0) and its rows."""
        if self.resumed_from and done:
            # Now, since callbacks may have drawn from them at the epoch's beginning.
            load_random_states(self.resumed_from, self.ranks, self.args.seed)
        else:
            draw()
        order = epoch_order(len(self.data.train), self.args.seed, epoch)
        size = self.args.rows_per_step
        for at in range(done, self.steps_per_epoch):
            yield at, [self.data.train[row] for row in order[at * size : (at + 1) * size]]

    def train_step(self, rows: list[Row]) -> None:
        """Change the weights by one step. Raises ModelError if the loss is infinite or NaN: before that, on a GPU after it."""
        self.model.train()
        count = target_tokens(rows)
        own = self.ranks.shard(rows)
        targets = torch.full((), count, device=self.step_loss.device)  # `tensor` would wait for a GPU
        loss = self.step_loss.add_gradients(own, targets, self.scaler)
        loss = self.ranks.sum_gradients(self.model.parameters(), loss)
        self.losses.add(self.state.global_step + 1, loss)
        self.meter.rows += len(rows)
        self.meter.tokens += sum(map(row_length, rows))
        self.meter.target_tokens += count
        self.loss_since_logged += loss

        self.scaler.unscale_(self.optimizer)
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm or math.inf)
        self.notify("on_pre_optimizer_step")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.notify("on_optimizer_step")
        self.learning_rate = self.scheduler.get_last_lr()[0]
        before, self.loss_scale = self.loss_scale, self.scaler.get_scale()
        self.skipped = self.skipped + 1 if self.loss_scale < before else 0
        if self.skipped > MAX_SKIPPED:
            raise ModelError(self.divergence(f"gradients overflow fp16 in {self.skipped} steps in a row"))
        if not self.skipped:
            self.scheduler.step()
        self.model.zero_grad()

    def decide(self) -> None:
        """What is due after this step. Callbacks may change it."""
        step, last = self.state.global_step, self.state.global_step >= self.state.max_steps
        self.control.should_log |= step % self.args.logging_steps == 0
        self.control.should_evaluate |= bool(self.args.eval_steps) and (last or step % self.args.eval_steps == 0)
        self.control.should_save |= self.args.save_strategy == "steps" and (last or step % self.args.save_steps == 0)
        self.control.should_training_stop |= last

    def log_evaluate_save(self) -> None:
        """Do what is due."""
        synchronize(self.control, self.ranks)
        if self.control.should_log or self.control.should_evaluate or self.control.should_save or self.control.should_training_stop:
            self.losses.finish()
        if self.control.should_log and self.state.global_step > self.logged_at:
            # Together, so that a GPU is waited for once.
            loss, grad_norm = torch.stack([self.loss_since_logged, self.grad_norm.to(self.loss_since_logged)]).cpu().tolist()
            self.loss_since_logged.zero_()
            self.loss_logged += loss
            mean = loss / (self.state.global_step - self.logged_at)
            self.logged_at = self.state.global_step
            self.log({"loss": mean, "grad_norm": grad_norm, "learning_rate": self.learning_rate})
        if self.control.should_evaluate:
            self.evaluate()
        if self.control.should_save:
            self.save()
            self.notify("on_save", should_save=False)
        synchronize(self.control, self.ranks)

    def log(self, logs: dict[str, float]) -> None:
        """Give the numbers to the callbacks, and keep them in the state."""
        logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.notify("on_log", logs=logs, should_log=False)

    def evaluate(self) -> None:
        """Measure the mean loss over all target tokens of the evaluation rows, and note whether it is the best."""
        if not self.data.evaluation:
            raise InputError("a callback asks for an evaluation, but there is no data for it; set eval_split or eval_dataset_path")
        set_eval_mode(self.model)
        draw()
        targets, size = 0, self.args.rows_per_step
        sums = torch.zeros((), dtype=torch.float64, device=self.step_loss.device)
        for start in range(0, len(self.data.evaluation), size):
            rows = [self.data.evaluation[row] for row in range(start, min(start + size, len(self.data.evaluation)))]
            sums += self.step_loss.loss_sum(self.ranks.shard(rows))
            targets += target_tokens(rows)
        total = self.ranks.all_reduce_sum(sums.item())
        metrics = {"eval_loss": total / targets}
        if not math.isfinite(total):
            raise ModelError(self.divergence(f"the evaluation loss became {total} at step {self.state.global_step}"))
        self.log(metrics)
        self.notify("on_evaluate", metrics=metrics, should_evaluate=False)
        synchronize(self.control, self.ranks)
        if self.state.best_metric is None or metrics["eval_loss"] < self.state.best_metric:
            self.state.best_metric = metrics["eval_loss"]
            if self.args.save_strategy == "steps":
                self.state.best_global_step = self.state.global_step

    def save(self) -> None:
        """Write a checkpoint. Raises ModelError if the weights are not finite."""
        self.check_weights()
        random_states = self.ranks.all_gather(get_random_states())
        if not self.ranks.first:
            return
        with self.checkpoints.writing(self.state.global_step, self.state.best_global_step) as folder:
            save_model(self.model, self.tokenizer, folder)
            save_states(folder, self.parts(), random_states)
            self.state.save_to_json(str(folder / STATE_FILE))
            extra = {
                "loss_since_logged": self.loss_since_logged.item(),
                "loss_logged": self.loss_logged,
                "logged_at": self.logged_at,
                "first_loss": self.meter.first_loss,
                "last_loss": self.meter.last_loss,
                "evaluations_without_gain": self.evaluation.without_improvement,
            }
            precision, processes = self.args.mixed_precision, self.ranks.size
            write_resume_file(folder, extra, device=self.step_loss.device, mixed_precision=precision, processes=processes)

    def restore(self, checkpoint: Path, extra: dict[str, Any]) -> None:
        """Continue from a checkpoint; `extra` is the content of its resume.json."""
        load_weights(self.model, checkpoint)
        steps, epochs = self.state.max_steps, self.state.num_train_epochs
        self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        self.state.max_steps, self.state.num_train_epochs = steps, epochs
        self.loss_since_logged.fill_(extra["loss_since_logged"])
        self.loss_logged, self.logged_at = extra["loss_logged"], extra["logged_at"]
        self.meter.first_loss, self.meter.last_loss = extra["first_loss"], extra["last_loss"]
        self.evaluation.without_improvement = extra["evaluations_without_gain"]
        load_states(checkpoint, self.parts())
        self.loss_scale = self.scaler.get_scale()
        self.resumed_from = checkpoint
        # A process that was killed may not have come to this.
        if self.ranks.first:
            self.checkpoints.prune(self.state.global_step, self.state.best_global_step)

    def load_best(self) -> None:
        """Load the weights of the lowest evaluation loss."""
        self.ranks.barrier()  # until rank 0 has written it
        best = self.checkpoints.path(self.state.best_global_step or 0)
        if best.is_dir():
            load_weights(self.model, best)
        else:
            logger.warning("the best checkpoint %s is missing; the last weights are saved instead", best)

    def parts(self) -> dict[str, Any]:
        """What has a state besides the weights."""
        return {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}

    def check_weights(self) -> None:
        """Raise ModelError if a weight is infinite or NaN after the last optimizer step, which no later loss would show."""
        # Minimum and maximum show both; isfinite would allocate a second matrix of the vocabulary's size.
        trained = (p.detach() for p in self.model.parameters() if p.requires_grad and p.numel())
        if not all(bound.isfinite() for p in trained for bound in p.aminmax()):
            raise ModelError(self.divergence("weights became infinite or NaN in the last step"))

    def divergence(self, what: str) -> str:
        """The message of a training that diverged."""
        precision = "" if self.args.mixed_precision == "no" else ", or set dtype to fp32"
        good = self.checkpoints.last()
        kept = f"; the last good checkpoint is {good}" if good else ""
        return f"training diverged: {what}; lower learning_rate (now {self.args.learning_rate:g}) or add warmup{precision}{kept}"

    def notify(self, event: str, *, logs: Any = None, metrics: Any = None, **reset: bool) -> None:
        """Call the callbacks for an event, after the flags of the control in `reset` are set."""
        for flag, value in reset.items():
            setattr(self.control, flag, value)
        known: dict[str, Any] = {"model": self.model, "processing_class": self.tokenizer}
        known |= {"optimizer": self.optimizer, "lr_scheduler": self.scheduler, "train_dataloader": None, "eval_dataloader": None}
        known |= ({"logs": logs} if logs is not None else {}) | ({"metrics": metrics} if metrics is not None else {})
        for callback in self.callbacks:
            changed = getattr(callback, event)(self.args, self.state, self.control, **known)
            self.control = changed or self.control


def draw() -> None:
    """Draw a number from torch's generator, as its DataLoader does for each pass over a data set.

    Earlier builds had one, and so dropout after an epoch's beginning or an evaluation is as it was there.
    """
    torch.empty((), dtype=torch.int64).random_()
