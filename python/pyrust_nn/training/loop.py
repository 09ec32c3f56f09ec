"""The training loop that full fine-tuning and LoRA share, and its metrics.

A training step is `batch_size` x `gradient_accumulation_steps` rows, in an order that `seed` decides. Its loss is the mean
over all target tokens of the step, so the result does not depend on how the rows are divided into micro-batches (without
dropout); `batches` divides them by a budget of tokens. The exception is the router's loss of a mixture of experts: it is not a
sum over tokens, so each micro-batch has its own, weighted by its share of the target tokens. A row is a conversation, or one of
its turns if the chat template rewrites earlier messages (see `chat.renderer`). Every row occurs once in each epoch; the last step
of an epoch has the rest.

Precision: fp32 computes in fp32. bf16 and fp16 compute by autocast, while the trained weights stay in fp32 (updates of
1e-5 vanish in 8 bits of mantissa); fp16 scales its loss. So full fine-tuning takes 16 bytes per parameter in every dtype.
LoRA keeps its frozen base in `dtype`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback

from pyrust_nn.cpu.packed_attention import packed_attention
from pyrust_nn.cpu.patching import patched_layers
from pyrust_nn.cuda.liger import restored_globals
from pyrust_nn.training.advice import warn_about_settings
from pyrust_nn.training.arguments import training_arguments
from pyrust_nn.training.batches import BatchLayout
from pyrust_nn.training.callbacks import ETACallback, MetricsCallback, ProgressCallback, TrainingMeter
from pyrust_nn.training.compiling import compiled_layers
from pyrust_nn.training.evaluation import EvaluationCallback
from pyrust_nn.training.memory import out_of_memory_error, peak_memory_bytes, release_memory, trim_heap, unmap_trainable
from pyrust_nn.training.overview import log_overview, parameter_counts
from pyrust_nn.training.reports import report_callbacks
from pyrust_nn.training.resuming import restored
from pyrust_nn.training.session import TrainingSession
from pyrust_nn.training.setup import TrainingData, choose_batching
from pyrust_nn.training.stopping import StopCallback
from pyrust_nn.training.trainer import ConversationTrainer, collate_rows

if TYPE_CHECKING:
    from pyrust_nn.models.tokenizers import AnyTokenizer


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
) -> dict[str, float]:
    """Train the trainable weights of `model` in place and return the step's metrics.

    `checkpoint`: resume from this folder. `loraplus_ratio` is for adapters only (see `optimizers`).

    metrics.jsonl and the progress bar go to `session`; with `save_steps`, checkpoints to <step>/checkpoints. With
    `load_best_model_at_end` the model ends with the weights of the lowest evaluation loss. Among the metrics, losses are
    per target token (train_loss: mean of all steps; first_loss, last_loss: of one step), rates are of training steps only
    (without evaluation and saving), and the data counts include the `eval_rows`. `stopped_early` is there only if it is true.

    Raises ModelError if the loss or the weights become infinite or NaN, or if memory runs out.
    """
    meter, eta, stop = TrainingMeter(), ETACallback(), StopCallback()
    batching = choose_batching(params, model.config, device)
    saves = bool(params.save_steps or params.load_best_model_at_end)
    steps_per_epoch = math.ceil(len(data.train) / (params.batch_size * params.gradient_accumulation_steps))
    warn_about_settings(model, params, math.ceil(steps_per_epoch * params.num_epochs))
    eval_steps = (params.eval_steps or steps_per_epoch) if data.evaluation else 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = ConversationTrainer(
        model=model,
        tokenizer=tokenizer,
        meter=meter,
        session=session,
        evaluation=EvaluationCallback(patience=params.early_stopping_patience, saves=saves),
        batching=batching,
        loraplus_ratio=loraplus_ratio,
        args=training_arguments(params, session, device, dtype, eval_steps=eval_steps, saves=saves),
        data_collator=collate_rows,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        callbacks=[
            eta,
            ProgressCallback(session, eta, meter),
            MetricsCallback(session, eta, meter, lambda: peak_memory_bytes(device)),
            stop,
        ],
    )
    log_overview(params, model, data, device=device, dtype=dtype, resumed=checkpoint is not None)
    trainer.remove_callback(PrinterCallback)  # Trainer adds it when its progress bar is off; it prints dicts
    unmap_trainable(model)
    packed = packed_attention(model, dtype) if batching.layout is BatchLayout.PACKED else nullcontext()
    trim_heap()
    layers: AbstractContextManager[None] = nullcontext()
    if params.compile:
        layers = compiled_layers(model, checkpointing=params.gradient_checkpointing)
    elif trainer.args.world_size == 1:
        layers = patched_layers(model)
    signals = stop.handling_signals() if saves else nullcontext()
    with (
        report_callbacks(params.report_to or [], session) as reports,
        packed,
        layers,
        restored_globals(model),
        signals,
        restored(trainer, checkpoint, session.step_folder),
    ):
        for report in reports:
            trainer.add_callback(report)
        try:
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except torch.OutOfMemoryError as cause:
            raise out_of_memory_error(device, "for this training") from cause
    trainer.check_weights()
    last_evaluation = next((log["eval_loss"] for log in reversed(trainer.state.log_history) if "eval_loss" in log), None)
    if params.load_best_model_at_end:
        trainer.load_best()
        last_evaluation = trainer.state.best_metric
    model.config.use_cache = trainer.use_cache

    trained_parameters, all_parameters = parameter_counts(model)
    metrics = {
        "train_loss": result.training_loss,
        "first_loss": meter.first_loss,
        "last_loss": meter.last_loss,
        "eval_loss": last_evaluation,
        "best_eval_loss": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step if saves else None,
        "stopped_early": trainer.evaluation.stopped_early or None,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        **data.counts,
        "trainable_parameters": trained_parameters,
        "all_parameters": all_parameters,
        # None if the checkpoint resumed from had no step left.
        "tokens_per_second": meter.tokens / eta.training_seconds if eta.training_seconds else None,
        "target_tokens_per_second": meter.target_tokens / eta.training_seconds if eta.training_seconds else None,
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    # A process runs many steps, so this step's memory is released.
    del trainer
    release_memory()
    return {name: value for name, value in metrics.items() if value is not None}
